//! A daemon's insides in this process, with directories, cgroups and a network of its own.
//!
//! `Life` is one life of the daemon: its tokio runtime. Dropping it is the death of the
//! daemon: every task stops where it is, as with kill -9, and monitors live on.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use proto::cri as api;
use proto::cri::image_service_server::ImageService;
use proto::cri::runtime_service_server::RuntimeService;
use tonic::{Request, Status};

use crate::registry::Registry;

/// A plugin that gives everybody the same address, and notes what it was asked.
const PLUGIN: &str = r#"#!/bin/sh
dir=$(dirname "$0")
echo "$CNI_COMMAND $CNI_CONTAINERID" >> "$dir/calls"
cat >/dev/null
test -e "$dir/slow-$CNI_COMMAND" && sleep 1
test -e "$dir/fail-$CNI_COMMAND" && { echo '{"cniVersion":"1.0.0","code":11,"msg":"told to fail"}'; exit 1; }
case "$CNI_COMMAND" in
ADD) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.99.0.7/24","interface":0}]}';;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}';;
esac
exit 0
"#;

/// The monitor program, built once.
fn monitor() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let test = std::env::current_exe().unwrap();
        let debug = test.parent().unwrap().parent().unwrap().to_owned();
        let done = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "bulkhead-conmon", "--target-dir"])
            .arg(debug.parent().unwrap())
            .status()
            .unwrap();
        assert!(done.success(), "bulkhead-conmon does not build");
        debug.join("bulkhead-conmon")
    };
    BUILT.get_or_init(build).clone()
}

/// What outlives the daemon.
pub(crate) struct Bed {
    dir: PathBuf,
    /// The image of the bed's registry.
    pub(crate) image: String,
    /// Cgroup root.
    name: String,
    /// The owner's directory; None for a guest (another process on the same bed).
    owned: Option<tempfile::TempDir>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let owned = tempfile::Builder::new().prefix("bulkhead-cri-").tempdir().unwrap();
        let registry = Registry::start(owned.path());
        let port = registry.authority.split(':').nth(1).unwrap();
        let bed = Self {
            dir: owned.path().to_owned(),
            image: registry.image(),
            name: format!("bulkhead-test-{}-{port}", std::process::id()),
            owned: Some(owned),
        };
        for sub in ["net.d", "bin", "logs"] {
            std::fs::create_dir(bed.path(sub)).unwrap();
        }
        std::fs::write(bed.path("bin/fake"), PLUGIN).unwrap();
        std::fs::set_permissions(bed.path("bin/fake"), std::fs::Permissions::from_mode(0o755)).unwrap();
        bed.network(true);
        bed
    }

    /// Words from which another process finds this bed.
    #[cfg(feature = "failpoints")]
    pub(crate) fn address(&self) -> String {
        format!("{}|{}|{}", self.dir.display(), self.image, self.name)
    }

    /// The bed of another process.
    #[cfg(feature = "failpoints")]
    pub(crate) fn guest(address: &str) -> Self {
        let mut words = address.split('|').map(str::to_owned);
        let mut next = || words.next().unwrap();
        Self {
            dir: next().into(),
            image: next(),
            name: next(),
            owned: None,
        }
    }

    pub(crate) fn path(&self, sub: &str) -> PathBuf {
        self.dir.join(sub)
    }

    /// Puts the network configuration there, or takes it away.
    pub(crate) fn network(&self, there: bool) {
        let file = self.path("net.d/10-fake.conflist");
        if there {
            let text = r#"{"cniVersion":"1.0.0","name":"fake","plugins":[{"type":"fake"}]}"#;
            std::fs::write(file, text).unwrap();
        } else {
            std::fs::remove_file(file).unwrap();
        }
    }

    /// What the plugin was asked, with the pod's id.
    pub(crate) fn cni_calls(&self, id: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("bin/calls")).unwrap_or_default();
        text.lines()
            .filter_map(|l| l.split_once(' '))
            .filter(|(_, i)| *i == id)
            .map(|(c, _)| c.to_owned())
            .collect()
    }

    /// Starts a daemon.
    pub(crate) fn start(&self) -> Life {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let rt = tokio.block_on(self.build());
        Life {
            services: cri::Services::new(&rt),
            rt: Some(rt),
            tokio: Some(tokio),
        }
    }

    async fn build(&self) -> Arc<cri::Runtime> {
        let mut config = config::Config {
            root: self.path("root"),
            state: self.path("state"),
            ..Default::default()
        };
        config.cgroup_root.clone_from(&self.name);
        config.runtime.cdi_dirs = vec![self.path("cdi")];
        std::fs::create_dir_all(&config.root).unwrap();
        let images = image::Store::open(image::Options::new(&config.root)).unwrap();
        let cni = cni_invoke::Cni::new(cni_invoke::Options {
            conf_dir: self.path("net.d"),
            bin_dirs: vec![self.path("bin")],
            cache_dir: config.paths().cni_cache(),
            timeout: Duration::from_secs(10),
            network_name: None,
        });
        let stream = stream::Server::bind(stream::Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            idle_timeout: Duration::ZERO,
            token_ttl: Duration::from_secs(60),
        });
        let stream = Arc::new(stream.unwrap());
        cri::Runtime::build(cri::Parts {
            config,
            images,
            cni,
            stream,
            monitor: monitor(),
        })
        .await
        .unwrap()
    }

    /// Nothing of this bed is left on the host but its directory; what is cleaned in the
    /// background has a moment.
    pub(crate) fn assert_clean(&self) {
        self.assert_left(&[]);
    }

    /// Nothing but this pod and this container is left.
    #[cfg(feature = "failpoints")]
    pub(crate) fn assert_only(&self, pod: &str, container: &str) {
        let name = config::Paths::network_namespace_name(&spec::SandboxId::parse(pod).unwrap());
        self.assert_left(&[pod, container, &name]);
    }

    fn assert_left(&self, expected: &[&str]) {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let mut left = self.left();
            left.retain(|l| !expected.iter().any(|e| l.contains(e)));
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "left behind: {left:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn left(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.display().to_string();
        let mut left: Vec<String> = mounts
            .lines()
            .filter(|l| l.contains(&here))
            // Where namespaces are mounted: for as long as the server lives.
            .filter(|l| !l.contains(&format!(" {here}/state/ns ")))
            .map(str::to_owned)
            .collect();
        for sub in ["state/containers", "state/pods", "state/ns", "root/snapshots"] {
            let entries = std::fs::read_dir(self.path(sub)).into_iter().flatten().flatten();
            left.extend(entries.map(|e| e.path().display().to_string()));
        }
        let find = Command::new("find")
            .args(["/sys/fs/cgroup", "-type", "d", "-path"])
            .arg(format!("*/{}/pods/*", self.name))
            .output()
            .unwrap();
        left.extend(String::from_utf8_lossy(&find.stdout).lines().map(str::to_owned));
        let calls = std::fs::read_to_string(self.path("bin/calls")).unwrap_or_default();
        for id in calls.lines().filter_map(|l| l.split_once(' ')).map(|(_, id)| id) {
            if let Ok(id) = spec::SandboxId::parse(id) {
                let netns = config::Paths {
                    root: "/".into(),
                    state: "/".into(),
                }
                .network_namespace(&id);
                left.extend(netns.exists().then(|| netns.display().to_string()));
            }
        }
        left
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.owned.is_none() {
            return;
        }
        if std::thread::panicking() {
            // What the failed test left must not disturb the next one.
            let life = self.start();
            for pod in life
                .list_pod_sandbox(Default::default())
                .map(|l| l.items)
                .unwrap_or_default()
            {
                drop(life.stop_pod_sandbox(api::StopPodSandboxRequest {
                    pod_sandbox_id: pod.id.clone(),
                }));
                drop(life.remove_pod_sandbox(api::RemovePodSandboxRequest { pod_sandbox_id: pod.id }));
            }
        }
        // The spawner of the last life ends with its control socket; its cgroup is empty then.
        let until = Instant::now() + Duration::from_secs(5);
        let Ok(host) = cgroup::Host::detect() else { return };
        for sub in ["monitors", "pods", ""] {
            while let Ok(found) = host.open(format!("/{}/{sub}", self.name).trim_end_matches('/')) {
                if found.remove().is_ok() || Instant::now() > until {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// One life of the daemon.
pub(crate) struct Life {
    tokio: Option<tokio::runtime::Runtime>,
    rt: Option<Arc<cri::Runtime>>,
    services: cri::Services,
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(rt) = self.rt.take() {
            rt.settle(Duration::from_secs(1));
        }
        if let Some(tokio) = self.tokio.take() {
            tokio.shutdown_timeout(Duration::from_millis(200));
        }
    }
}

macro_rules! rpcs {
    ($($name:ident($request:ident) -> $reply:ident;)*) => {
        $(pub(crate) fn $name(&self, message: api::$request) -> Result<api::$reply, Status> {
            self.run(self.services.$name(Request::new(message))).map(tonic::Response::into_inner)
        })*
    };
}

impl Life {
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.tokio.as_ref().unwrap().block_on(work)
    }

    pub(crate) fn services(&self) -> cri::Services {
        self.services.clone()
    }

    pub(crate) fn streaming(&self) -> cri::Streaming {
        cri::Streaming::new(self.rt.as_ref().unwrap())
    }

    /// The file of a pod's network namespace.
    pub(crate) fn netns(&self, pod: &str) -> String {
        self.pod_info(pod)["networkNamespace"].as_str().unwrap().to_owned()
    }

    /// What the verbose status of a pod says.
    pub(crate) fn pod_info(&self, pod: &str) -> serde_json::Value {
        let request = api::PodSandboxStatusRequest {
            pod_sandbox_id: pod.into(),
            verbose: true,
        };
        let info = self.pod_sandbox_status(request).unwrap().info["info"].clone();
        serde_json::from_str(&info).unwrap()
    }

    rpcs! {
        status(StatusRequest) -> StatusResponse;
        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
        pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
        list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
        create_container(CreateContainerRequest) -> CreateContainerResponse;
        start_container(StartContainerRequest) -> StartContainerResponse;
        stop_container(StopContainerRequest) -> StopContainerResponse;
        remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
        list_containers(ListContainersRequest) -> ListContainersResponse;
        container_status(ContainerStatusRequest) -> ContainerStatusResponse;
        exec_sync(ExecSyncRequest) -> ExecSyncResponse;
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
        restore_pod(RestorePodRequest) -> RestorePodResponse;
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        pull_image(PullImageRequest) -> PullImageResponse;
        image_status(ImageStatusRequest) -> ImageStatusResponse;
        remove_image(RemoveImageRequest) -> RemoveImageResponse;
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
    }

    pub(crate) fn pull(&self, bed: &Bed) {
        let image = Some(api::ImageSpec {
            image: bed.image.clone(),
            ..Default::default()
        });
        self.pull_image(api::PullImageRequest {
            image,
            ..Default::default()
        })
        .unwrap();
    }

    pub(crate) fn state(&self, id: &str) -> api::ContainerStatus {
        let request = api::ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        self.container_status(request).unwrap().status.unwrap()
    }

    /// The first process of a container.
    pub(crate) fn container_pid(&self, id: &str) -> i64 {
        let request = api::ContainerStatusRequest {
            container_id: id.into(),
            verbose: true,
        };
        let info = self.container_status(request).unwrap().info["info"].clone();
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        info["pid"].as_i64().unwrap()
    }

    pub(crate) fn wait_exit(&self, id: &str) -> api::ContainerStatus {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let status = self.state(id);
            if status.state() == api::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < until, "{id} does not end: {status:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn exec(&self, id: &str, script: &str) -> api::ExecSyncResponse {
        let cmd = vec!["/bin/sh".into(), "-c".into(), script.into()];
        self.exec_sync(api::ExecSyncRequest {
            container_id: id.into(),
            cmd,
            timeout: 10,
        })
        .unwrap()
    }

    pub(crate) fn remove_pod(&self, id: &str) {
        self.stop_pod_sandbox(api::StopPodSandboxRequest {
            pod_sandbox_id: id.into(),
        })
        .unwrap();
        self.remove_pod_sandbox(api::RemovePodSandboxRequest {
            pod_sandbox_id: id.into(),
        })
        .unwrap();
    }
}

pub(crate) fn pod(bed: &Bed, name: &str) -> api::PodSandboxConfig {
    let metadata = api::PodSandboxMetadata {
        name: name.into(),
        namespace: "default".into(),
        uid: format!("uid-{name}"),
        attempt: 0,
    };
    api::PodSandboxConfig {
        metadata: Some(metadata),
        hostname: name.into(),
        log_directory: bed.path("logs").join(name).display().to_string(),
        linux: Some(api::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

pub(crate) fn run(life: &Life, config: api::PodSandboxConfig) -> String {
    let request = api::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: String::new(),
    };
    life.run_pod_sandbox(request).unwrap().pod_sandbox_id
}

pub(crate) fn container(bed: &Bed, name: &str, script: &str) -> api::ContainerConfig {
    api::ContainerConfig {
        metadata: Some(api::ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(api::ImageSpec {
            image: bed.image.clone(),
            ..Default::default()
        }),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(api::LinuxContainerConfig {
            security_context: Some(api::LinuxContainerSecurityContext::default()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn create(life: &Life, pod: &str, config: api::ContainerConfig) -> Result<String, Status> {
    let request = api::CreateContainerRequest {
        pod_sandbox_id: pod.into(),
        config: Some(config),
        sandbox_config: None,
    };
    life.create_container(request).map(|r| r.container_id)
}

pub(crate) fn start(life: &Life, id: &str) -> Result<(), Status> {
    life.start_container(api::StartContainerRequest {
        container_id: id.into(),
    })
    .map(drop)
}
