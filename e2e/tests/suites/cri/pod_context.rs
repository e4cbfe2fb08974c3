//! What a pod says about its security, what a request says about the pod it is for, and what has no meaning on this node.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::{pod, pod_namespaces, pod_security, security, sleeper};
use e2e::{Bed, Node, Options, container, refused, test, test_with};
use proto::cri as v1;
use tonic::Code;

fn id(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn profile(kind: v1::security_profile::ProfileType, path: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: path.into(),
    })
}

/// The line of a status file that begins with `key`, its words.
fn words<'a>(status: &'a str, key: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_default().split_whitespace().collect()
}

/// The status of the init of a pod with a shared pid namespace, and what is in its root.
async fn init_of(node: &Node, bed: &Bed) -> Result<(String, String)> {
    let whole = bed.cri.pod_status_whole(&bed.pod).await?;
    let info: serde_json::Value = serde_json::from_str(whole.info.get("info").context("no info")?)?;
    let pid = info["pid"].as_i64().filter(|pid| *pid > 0).context("no init")?;
    let mount = node.sh(&format!("cat /proc/{pid}/mountinfo"))?;
    let root = mount
        .lines()
        .find(|line| line.contains(" / / "))
        .unwrap_or_default()
        .to_owned();
    Ok((node.sh(&format!("cat /proc/{pid}/status"))?, root))
}

#[test]
fn a_pods_own_process_has_the_user_and_the_filter_of_the_pod() {
    test(async |node| -> Result<()> {
        use v1::security_profile::ProfileType;
        let shared = |name: &'static str, change: fn(&mut v1::LinuxSandboxSecurityContext)| {
            Bed::with(node, move |config| {
                config.metadata.get_or_insert_default().name = name.into();
                pod_namespaces(config).pid = v1::NamespaceMode::Pod.into();
                change(pod_security(config));
            })
        };
        let plain = shared("plain", |_| {}).await?;
        let (status, _) = init_of(node, &plain).await?;
        ensure!(
            words(&status, "Uid:") == ["0"; 4] && words(&status, "Seccomp:") == ["2"],
            "{status}"
        );
        let own = shared("own", |context| {
            context.run_as_user = id(1000);
            context.run_as_group = id(2000);
            context.supplemental_groups = vec![3000];
            context.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
            context.readonly_rootfs = true;
            context.seccomp = profile(ProfileType::Unconfined, "");
        })
        .await?;
        let (status, root) = init_of(node, &own).await?;
        ensure!(
            words(&status, "Uid:") == ["1000"; 4] && words(&status, "Gid:") == ["2000"; 4],
            "{status}"
        );
        ensure!(words(&status, "Groups:") == ["2000", "3000"], "{status}");
        ensure!(words(&status, "Seccomp:") == ["0"], "{status}");
        ensure!(words(&status, "CapEff:") == ["0000000000000000"], "{status}");
        ensure!(
            root.split(' ').nth(5).is_some_and(|options| options.starts_with("ro")),
            "{root:?}"
        );
        // Its containers are who they say, and their orphans are still reaped.
        let mut config = container("main", BUSYBOX, &["sleep", "100000"]);
        security(&mut config).namespace_options.get_or_insert_default().pid = v1::NamespaceMode::Pod.into();
        let main = own.run(&config).await?;
        ensure!(
            own.cri.sh(&main, "id -u").await? == "0\n",
            "the container has the pod's user"
        );
        let orphan = "(sleep 0.1 &); sleep 1; \
                      for i in $(seq 100); do ps -o stat,comm | grep -q '^Z' || exit 0; sleep 0.1; done; exit 1";
        own.cri.sh(&main, orphan).await?;
        Ok(())
    });
}

#[test]
fn what_a_pod_says_about_its_process_is_right_or_refused() {
    test(async |node| -> Result<()> {
        use v1::security_profile::ProfileType;
        let cri = node.cri();
        let missing = node.dir().join("no-such-profile.json").to_string_lossy().into_owned();
        let with = |change: &dyn Fn(&mut v1::LinuxSandboxSecurityContext)| {
            let mut config = pod(node, "bad");
            change(pod_security(&mut config));
            config
        };
        for (word, bad) in [
            ("run_as_group", with(&|c| c.run_as_group = id(1))),
            ("run_as_user", with(&|c| c.run_as_user = id(-5))),
            ("supplemental group", with(&|c| c.supplemental_groups = vec![1 << 33])),
            (
                "supplemental_groups_policy",
                with(&|c| c.supplemental_groups_policy = 9),
            ),
            (
                "no-such-profile",
                with(&|c| c.seccomp = profile(ProfileType::Localhost, &missing)),
            ),
        ] {
            refused(cri.run_pod(&bad).await, Code::InvalidArgument, &[word])?;
        }
        if !fs::exists("/sys/kernel/security/apparmor")? {
            let bad = with(&|c| c.apparmor = profile(ProfileType::Localhost, "mine"));
            refused(cri.run_pod(&bad).await, Code::InvalidArgument, &["AppArmor"])?;
        }
        ensure!(cri.pods(None).await?.is_empty(), "one was made");
        Ok(())
    });
}

fn has_selinux() -> bool {
    std::path::Path::new("/sys/fs/selinux/enforce").exists()
}

#[expect(clippy::unnecessary_wraps, reason = "as the messages have it")]
fn level() -> Option<v1::SeLinuxOption> {
    Some(v1::SeLinuxOption {
        level: "s0:c1,c2".into(),
        ..Default::default()
    })
}

#[test]
fn without_selinux_its_options_are_refused_before_anything_is_made() {
    if has_selinux() {
        return;
    }
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let words = |whose: &'static str| [whose, "this node has no SELinux", "runtime.missing_selinux"];
        let mut labelled = pod(node, "labelled");
        pod_security(&mut labelled).selinux_options = level();
        let answer = bed.cri.run_pod(&labelled).await;
        refused(answer, Code::FailedPrecondition, &words("selinux_options of the pod:"))?;
        ensure!(bed.cri.pods(None).await?.len() == 1, "a pod was made");
        let mut config = sleeper("labelled");
        security(&mut config).selinux_options = level();
        let answer = bed.create(&config).await;
        refused(answer, Code::FailedPrecondition, &words("selinux_options:"))?;
        ensure!(bed.cri.containers(None).await?.is_empty(), "a container was made");
        let log = e2e::logs::path(&bed.config, &config);
        ensure!(!log.exists(), "{} was made", log.display());
        // Nothing is asked for where they are empty.
        security(&mut config).selinux_options = Some(v1::SeLinuxOption::default());
        bed.create(&config).await?;
        Ok(())
    });
}

#[test]
fn where_the_administrator_wants_it_selinux_options_are_a_word_in_the_log() {
    if has_selinux() {
        return;
    }
    for key in ["missing_selinux: ignore", "disable_selinux: true"] {
        let options = Options {
            config: format!("runtime:\n  {key}\n"),
            ..Options::default()
        };
        test_with(options, async |node| -> Result<()> {
            let bed = Bed::with(node, |config| pod_security(config).selinux_options = level()).await?;
            let mut config = sleeper("labelled");
            security(&mut config).selinux_options = level();
            let id = bed.run(&config).await?;
            ensure!(
                bed.cri.sh(&id, "echo runs").await? == "runs\n",
                "{key}: it does not run"
            );
            let log = fs::read_to_string(node.log_path())?;
            let told = log
                .lines()
                .any(|line| line.contains(&id) && line.contains("selinux_options are without effect"));
            ensure!(told, "{key}: it is not told: {}", node.log_tail(20));
            Ok(())
        });
    }
}

#[test]
fn a_privileged_container_needs_a_pod_that_may_have_one() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = sleeper("privileged");
        security(&mut config).privileged = true;
        refused(bed.create(&config).await, Code::InvalidArgument, &["privileged", "pod"])?;
        ensure!(bed.cri.containers(None).await?.is_empty(), "it was made");
        // As the kubelet asks where a privileged container comes to a pod that runs.
        let mut now = bed.config.clone();
        pod_security(&mut now).privileged = true;
        let id = bed.cri.run(&bed.pod, &config, &now).await?;
        let status = bed.cri.sh(&id, "grep Seccomp: /proc/self/status").await?;
        ensure!(words(&status, "Seccomp:") == ["0"], "{status}");
        Ok(())
    });
}

#[test]
fn the_pod_of_a_container_is_the_one_that_its_request_describes() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for (word, change) in [
            ("name", (|m| m.name = "other".into()) as fn(&mut v1::PodSandboxMetadata)),
            ("namespace", |m| m.namespace = "other".into()),
            ("uid", |m| m.uid = "other".into()),
        ] {
            let mut other = bed.config.clone();
            change(other.metadata.get_or_insert_default());
            let answer = bed.cri.create(&bed.pod, &sleeper("main"), &other).await;
            refused(answer, Code::InvalidArgument, &["another pod", &format!("its {word}")])?;
        }
        ensure!(bed.cri.containers(None).await?.is_empty(), "one was made");
        // A client may know less of the pod than the kubelet.
        bed.cri
            .create(&bed.pod, &sleeper("main"), &v1::PodSandboxConfig::default())
            .await?;
        // The logs of a container are where the request says that the pod's are.
        let moved = node.logs_dir().join("moved");
        let now = v1::PodSandboxConfig {
            log_directory: moved.to_string_lossy().into_owned(),
            ..bed.config.clone()
        };
        let config = container("teller", BUSYBOX, &["echo", "told"]);
        let id = bed.cri.run(&bed.pod, &config, &now).await?;
        let status = bed.cri.exited(&id).await?;
        ensure!(
            status.log_path == moved.join("teller.log").to_string_lossy(),
            "{}",
            status.log_path
        );
        ensure!(
            fs::read_to_string(&status.log_path)?.ends_with(" F told\n"),
            "it is not there"
        );
        let bad = v1::PodSandboxConfig {
            log_directory: "relative".into(),
            ..bed.config.clone()
        };
        let answer = bed.cri.create(&bed.pod, &sleeper("bad"), &bad).await;
        refused(answer, Code::InvalidArgument, &["log_directory"])
    });
}

#[test]
fn what_is_for_windows_is_refused() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut other = pod(node, "windows");
        other.windows = Some(v1::WindowsPodSandboxConfig::default());
        refused(bed.cri.run_pod(&other).await, Code::InvalidArgument, &["windows"])?;
        let mut config = sleeper("main");
        config.windows = Some(v1::WindowsContainerConfig::default());
        refused(bed.create(&config).await, Code::InvalidArgument, &["windows"])?;
        let said = v1::PodSandboxConfig {
            windows: Some(v1::WindowsPodSandboxConfig::default()),
            ..bed.config.clone()
        };
        let answer = bed.cri.create(&bed.pod, &sleeper("main"), &said).await;
        refused(answer, Code::InvalidArgument, &["windows"])?;
        let pull = v1::PullImageRequest {
            image: Some(e2e::cri::spec(BUSYBOX)),
            sandbox_config: Some(said),
            ..Default::default()
        };
        let answer = bed.cri.images.clone().pull_image(pull).await;
        refused(answer, Code::InvalidArgument, &["windows"])
    });
}

#[test]
fn an_image_is_for_a_runtime_handler_that_is_there() {
    let options = Options {
        config: "handlers:\n  other: {}\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let (mut images, code) = (bed.cri.images.clone(), Code::InvalidArgument);
        let of = |handler: &str| v1::ImageSpec {
            runtime_handler: handler.into(),
            ..e2e::cri::spec(BUSYBOX)
        };
        let unknown = || Some(of("unknown"));
        let words = &["runtime_handler", "unknown"];
        let pull = |image| v1::PullImageRequest {
            image,
            ..Default::default()
        };
        refused(images.pull_image(pull(unknown())).await, code, words)?;
        let status = |image| v1::ImageStatusRequest { image, verbose: false };
        refused(images.image_status(status(unknown())).await, code, words)?;
        let remove = v1::RemoveImageRequest { image: unknown() };
        refused(images.remove_image(remove).await, code, words)?;
        let filter = Some(v1::ImageFilter { image: unknown() });
        refused(images.list_images(v1::ListImagesRequest { filter }).await, code, words)?;
        let mut config = sleeper("main");
        config.image = unknown();
        refused(bed.create(&config).await, code, words)?;
        // A known one is the same image, and is told back.
        let pulled = images.pull_image(pull(Some(of("other")))).await?.into_inner().image_ref;
        let found = images.image_status(status(Some(of("other")))).await?.into_inner().image;
        ensure!(found.is_some_and(|image| image.id == pulled), "another image");
        config.image = Some(of("other"));
        let id = bed.create(&config).await?;
        let told = bed.cri.container_status(&id).await?.image.unwrap_or_default();
        ensure!(told.runtime_handler == "other", "{told:?}");
        let listed = bed.cri.containers(None).await?.remove(0).image.unwrap_or_default();
        ensure!(listed.runtime_handler == "other", "{listed:?}");
        Ok(())
    });
}

#[test]
fn a_client_that_speaks_another_version_is_told() {
    test(async |node| -> Result<()> {
        let mut runtime = node.cri().runtime;
        let mut ask = async |version: &str| {
            let request = v1::VersionRequest {
                version: version.into(),
            };
            runtime.version(request).await.map(tonic::Response::into_inner)
        };
        // The kubelet's words, none, and crictl's.
        for fine in ["0.1.0", "", "v1"] {
            ensure!(ask(fine).await?.runtime_api_version == "v1", "{fine:?}");
        }
        refused(
            ask("v1alpha2").await,
            Code::InvalidArgument,
            &["v1alpha2", "0.1.0", "v1"],
        )
    });
}
