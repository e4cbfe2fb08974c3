//! The kubelet on a node, with static pods or registered with a control plane.
//!
//! It changes sysctls that have no namespace (`kernel.panic`, `vm.overcommit_memory`, …). So it
//! runs in a mount namespace of its own whose `/proc` alone is apart: there, files on a tmpfs
//! stand for these sysctls. Everything else of its mounts is shared with the node, as the
//! volumes that it mounts must be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{agnhost, pods};
use crate::node::{Node, Options};
use crate::registry::Registry;
use crate::service::Service;
use crate::{places, run, wait};

/// The node's address.
pub const ADDRESS: &str = "10.77.0.2";

/// The node's name.
pub const NAME: &str = "node";

pub(super) const READ_ONLY_PORT: u16 = 10255;

/// What a test may set.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The server and its surroundings.
    pub options: Options,
    /// Merged over the kubelet's configuration.
    pub config: Value,
    /// Further flags of the kubelet.
    pub flags: Vec<String>,
}

/// A node with a kubelet.
#[derive(Debug)]
pub struct Kubelet {
    /// The server and its surroundings.
    pub node: Node,
    settings: Settings,
    service: Option<Service>,
    images: Option<Registry>,
}

/// Sysctls that the kubelet sets (its `setupKernelTunables`), with what it wants to find, so that it has nothing to do.
const FACADE: &str = r#"
set -e
mount --make-private /proc
mkdir -p /run/sysctls
for line in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctls/$(echo "${line%=*}" | tr / .)
    echo "${line#*=}" > "$file"
    mount --bind "$file" "/proc/sys/${line%=*}"
done
exec "$@"
"#;

/// A way out for the node's own address; both ends stay in the node.
const LINK: &str = "ip link add eth0 type veth peer name eth0-out && ip addr add 10.77.0.2/24 dev eth0 && \
    ip link set eth0 up && ip link set eth0-out up && ip route add default via 10.77.0.1 dev eth0";

impl Kubelet {
    /// Starts a server and a kubelet on it.
    ///
    /// # Errors
    /// Where one of them does not come up; the ends of the logs are in the message.
    pub async fn start(settings: Settings) -> Result<Self> {
        let mut kubelet = Self::prepare(settings).await?;
        kubelet.start_kubelet().await?;
        Ok(kubelet)
    }

    /// As [`Kubelet::start`], without the kubelet.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    pub async fn prepare(mut settings: Settings) -> Result<Self> {
        settings.options.private = &["/var/lib/kubelet", "/var/log"];
        settings.options.quiet = true;
        let node = Node::start(settings.options.clone()).await?;
        node.sh(LINK)?;
        let images = agnhost::serve(&node)?;
        let kubelet = Self {
            node,
            settings,
            service: None,
            images: Some(images),
        };
        for directory in [kubelet.dir(), kubelet.manifests()] {
            fs::create_dir_all(directory)?;
        }
        kubelet.make_cgroup()?;
        Ok(kubelet)
    }

    /// The kubelet checks that its root cgroup is there in every hierarchy.
    fn make_cgroup(&self) -> Result<()> {
        for root in cgroup_roots()? {
            let path = root.join(self.cgroup().trim_start_matches('/'));
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
            // A v1 cpuset starts empty, and with it nothing can run.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let mut below = root.clone();
                for part in self.cgroup().trim_start_matches('/').split('/') {
                    let value = fs::read_to_string(below.join(file)).unwrap_or_default();
                    below.push(part);
                    let own = below.join(file);
                    if own.exists()
                        && fs::read_to_string(&own)?.trim().is_empty()
                        && root.join("cgroup.clone_children").exists()
                    {
                        fs::write(&own, value.trim())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Starts the kubelet and waits until it calls itself healthy.
    ///
    /// # Errors
    /// Where it ends or does not answer in a minute.
    pub async fn start_kubelet(&mut self) -> Result<()> {
        let config = self.dir().join("config.json");
        fs::write(&config, serde_json::to_string_pretty(&self.configuration())?)?;
        let mut command = self.node.enter("unshare");
        command.args(["--mount", "--propagation", "unchanged", "sh", "-c", FACADE, "sh"]);
        command.arg(places::tool("kubelet").context("run hack/setup --node")?);
        command
            .arg("--config")
            .arg(&config)
            .arg("--root-dir")
            .arg(self.dir().join("root"));
        command.arg("--cert-dir").arg(self.dir().join("pki"));
        command.args([
            &format!("--hostname-override={NAME}"),
            &format!("--node-ip={ADDRESS}"),
            "--v=2",
        ]);
        command.args(&self.settings.flags);
        without_proxy(&mut command);
        let mut service = Service::start(command, &self.log_path())?;
        let healthy = wait::until("the kubelet is healthy", Duration::from_secs(60), async || {
            if let Some(how) = service.ended()? {
                bail!("the kubelet ended: {how}");
            }
            Ok(self.get("/healthz").ok().filter(|text| text == "ok"))
        });
        healthy
            .await
            .with_context(|| format!("the kubelet's log ends with:\n{}", tail(&self.log_path(), 20)))?;
        self.service = Some(service);
        Ok(())
    }

    fn configuration(&self) -> Value {
        let path = |path: &Path| path.display().to_string();
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "failCgroupV1": false,
            "failSwapOn": false,
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": format!("unix://{}", path(&self.node.socket())),
            "staticPodPath": path(&self.manifests()),
            "podLogsDir": path(&self.dir().join("logs")),
            "volumePluginDir": path(&self.dir().join("plugins")),
            "fileCheckFrequency": "1s",
            "syncFrequency": "5s",
            "readOnlyPort": READ_ONLY_PORT,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup(),
            "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local",
            // The machine's own disk and memory are none of these tests' business.
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi",
                             "nodefs.inodesFree": "1", "imagefs.inodesFree": "1"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "shutdownGracePeriod": "0s",
            "maxPods": 200,
            "registryPullQPS": 0,
            "serializeImagePulls": false,
        });
        pods::merge(&mut config, self.settings.config.clone());
        config
    }

    /// Changes what the next start of the kubelet is configured with.
    pub fn configure(&mut self, over: Value) {
        pods::merge(&mut self.settings.config, over);
    }

    /// Adds flags for the next start of the kubelet.
    pub fn flags(&mut self, flags: &[String]) {
        self.settings.flags.extend_from_slice(flags);
    }

    /// SIGKILL to the kubelet.
    ///
    /// # Errors
    /// Where none runs.
    pub fn kill_kubelet(&mut self) -> Result<()> {
        self.service.take().context("no kubelet runs")?.kill()
    }

    /// Directory of all that is the kubelet's.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.node.dir().join("kubelet")
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.dir().join("manifests")
    }

    /// Its log.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.node.dir().join("kubelet.log")
    }

    /// The cgroup below which it keeps its pods.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("/{}/kubelet", self.node.name())
    }

    /// Ends all pods by taking their manifests away, then kubelet and server; nothing may be left.
    ///
    /// # Errors
    /// Where something is left.
    pub async fn finish(self) -> Result<()> {
        for entry in fs::read_dir(self.manifests())? {
            fs::remove_file(entry?.path())?;
        }
        let cri = self.node.cri();
        wait::until("the kubelet has ended every pod", Duration::from_secs(60), async || {
            let ready = cri.pods(None).await?;
            let ready = ready
                .iter()
                .any(|pod| pod.state() == proto::cri::PodSandboxState::SandboxReady);
            Ok((!ready).then_some(()))
        })
        .await?;
        self.end().await
    }

    /// Ends the kubelet, removes what it leaves to a reboot, and checks that nothing is left of the server.
    ///
    /// # Errors
    /// As [`Kubelet::finish`].
    pub async fn end(mut self) -> Result<()> {
        if let Some(mut service) = self.service.take() {
            service.kill()?;
        }
        self.node.cri().remove_everything().await?;
        if let Some(images) = self.images.take() {
            images.stop()?;
        }
        self.node.sh("ip link del eth0")?;
        // The kubelet's own rule against martians from loopback.
        self.node
            .sh("iptables -w -F KUBE-FIREWALL; ip6tables -w -F KUBE-FIREWALL || true")?;
        // A killed kubelet leaves the volumes of the pods that it had not taken down yet.
        self.node.sh(&format!(
            "awk '$5 ~ \"^{0}/\" {{print $5}}' /proc/self/mountinfo | tac | xargs -r umount",
            self.dir().display()
        ))?;
        self.remove_cgroups()?;
        self.node.finish().await
    }

    /// Removes the kubelet's own cgroups; a container's is left for the leak check to find.
    fn remove_cgroups(&self) -> Result<()> {
        for root in cgroup_roots()? {
            let top = root.join(self.cgroup().trim_start_matches('/'));
            let mut all = vec![top];
            let mut at = 0;
            while let Some(directory) = all.get(at).cloned() {
                at += 1;
                let Ok(entries) = fs::read_dir(&directory) else {
                    continue;
                };
                for entry in entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if name.starts_with("kubepods")
                        || name.starts_with("pod")
                        || ["burstable", "besteffort"].contains(&name.as_str())
                    {
                        all.push(entry.path());
                    }
                }
            }
            for directory in all.iter().rev() {
                // What is not empty is found by the leak check.
                fs::remove_dir(directory).ok();
            }
        }
        Ok(())
    }
}

/// The mounted cgroup hierarchies.
fn cgroup_roots() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let groups = mounts.lines().filter(|line| line.contains(" - cgroup"));
    Ok(groups
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect())
}

/// The registry and the interfaces are on loopback; a proxy of the test run is not for them.
pub(crate) fn without_proxy(command: &mut Command) {
    for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        command.env_remove(variable);
    }
}

/// The end of a file.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs `body` on a node with a kubelet and static pods.
///
/// # Panics
/// Where the body fails or something is left.
pub fn test(body: impl AsyncFnOnce(&mut Kubelet) -> Result<()>) {
    test_with(Settings::default(), body);
}

/// As [`test()`], with settings.
///
/// # Panics
/// As [`test()`].
pub fn test_with(settings: Settings, body: impl AsyncFnOnce(&mut Kubelet) -> Result<()>) {
    let result = run::runtime().and_then(|runtime| {
        runtime.block_on(async {
            let mut kubelet = Kubelet::start(settings).await?;
            let outcome = tokio::time::timeout(Duration::from_secs(240), body(&mut kubelet)).await;
            if let Err(error) = outcome.unwrap_or_else(|_| bail!("the test was not done after 240 s")) {
                eprintln!("--- end of the kubelet's log ---\n{}", tail(&kubelet.log_path(), 40));
                eprintln!("--- end of the server's log ---\n{}\n---", kubelet.node.log_tail(20));
                return Err(error);
            }
            kubelet.finish().await
        })
    });
    if let Err(error) = result {
        panic!("{error:#}");
    }
}
