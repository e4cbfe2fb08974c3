//! Runtime handlers: what each does otherwise, and what they let through.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::{pod, pod_security, security};
use e2e::limits::is_v2;
use e2e::{Node, Options, container, refused, test, test_with};
use proto::cri as v1;
use tonic::Code;

const HANDLERS: &str = "
handlers:
  strict:
    default_capabilities: [CHOWN]
    default_seccomp: runtime_default
    rlimits: ['nofile=100:200', core=0]
    pids_limit: 33
    pod_annotations: ['pod.example/*']
    container_annotations: [own]
  bare:
    privileged_without_host_devices: true
  usable:
    privileged_without_host_devices: true
    privileged_without_host_devices_all_devices_allowed: true
  writable:
    cgroup_writable: true
";

fn with_handlers() -> Options {
    Options {
        config: HANDLERS.into(),
        ..Options::default()
    }
}

/// A pod of a handler with one container in it, run to its end: its output, and its OCI specification.
async fn output(
    node: &Node,
    handler: &str,
    line: &str,
    change: impl FnOnce(&mut v1::PodSandboxConfig, &mut v1::ContainerConfig),
) -> Result<(String, serde_json::Value)> {
    let cri = node.cri();
    cri.pull(BUSYBOX).await?;
    let mut sandbox = pod(node, &format!("pod-{handler}"));
    let mut config = container("main", BUSYBOX, &["sh", "-c", line]);
    change(&mut sandbox, &mut config);
    let id = cri.run_pod_with(&sandbox, handler).await?;
    ensure!(
        cri.pod_status(&id).await?.runtime_handler == handler,
        "another handler in the status"
    );
    let main = cri.run(&id, &config, &sandbox).await?;
    let status = cri.exited(&main).await?;
    let lines = e2e::logs::read(&e2e::logs::path(&sandbox, &config))?;
    ensure!(
        status.exit_code == 0,
        "{handler}: exit code {}, {lines:?}",
        status.exit_code
    );
    let info = cri.container_status_whole(&main).await?.info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("no info")?)?;
    Ok((e2e::logs::joined(&lines, "stdout"), info["runtimeSpec"].clone()))
}

#[test]
fn e6_every_handler_is_listed_with_its_features_and_no_other_is_taken() {
    test_with(with_handlers(), async |node| -> Result<()> {
        let cri = node.cri();
        let status = cri.status().await?;
        let mut names: Vec<&str> = status.runtime_handlers.iter().map(|h| h.name.as_str()).collect();
        names.sort_unstable();
        ensure!(
            names == ["", "bare", "bulkhead", "strict", "usable", "writable"],
            "{names:?}"
        );
        for handler in &status.runtime_handlers {
            let features = handler.features.context("no features")?;
            ensure!(features.recursive_read_only_mounts, "{handler:?}");
        }
        refused(
            cri.run_pod_with(&pod(node, "pod"), "none").await,
            Code::NotFound,
            &["\"none\"", "strict"],
        )?;
        // Where a container could lift its own limits, it is not let in.
        if !is_v2() {
            refused(
                cri.run_pod_with(&pod(node, "pod"), "writable").await,
                Code::FailedPrecondition,
                &["cgroup_writable", "cgroup v2"],
            )?;
        }
        ensure!(cri.pods(None).await?.is_empty(), "a refused pod is listed");
        Ok(())
    });
}

#[test]
fn e7_a_handler_says_what_a_container_gets_that_asks_for_nothing() {
    test_with(with_handlers(), async |node| -> Result<()> {
        let line = "grep -E '^(CapEff|Seccomp):' /proc/self/status; ulimit -Sn; ulimit -Hn; ulimit -c; cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max";
        let (strict, _) = output(node, "strict", line, |_, _| {}).await?;
        ensure!(
            strict == "CapEff:\t0000000000000001\nSeccomp:\t2\n100\n200\n0\n33\n",
            "{strict}"
        );
        // As both peers: without a word about seccomp there is none.
        let (plain, _) = output(node, "", line, |_, _| {}).await?;
        ensure!(
            plain.contains("Seccomp:\t0\n") && plain.ends_with("max\n") && !plain.contains("\n100\n"),
            "{plain}"
        );
        // What is asked for goes before what the handler says.
        let (asked, _) = output(node, "strict", line, |sandbox, config| {
            sandbox.metadata.get_or_insert_default().name = "asked".into();
            security(config).seccomp = Some(v1::SecurityProfile {
                profile_type: v1::security_profile::ProfileType::Unconfined.into(),
                localhost_ref: String::new(),
            });
        })
        .await?;
        ensure!(asked.contains("Seccomp:\t0\n"), "{asked}");
        Ok(())
    });
}

#[test]
fn e7_annotations_go_into_the_specification_as_the_handler_filters_them() {
    test_with(with_handlers(), async |node| -> Result<()> {
        let set = |sandbox: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig| {
            let map = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), format!("of {n}"))).collect();
            sandbox.annotations = map(&["pod.example/a", "pod.example/a/b", "own", "io.bulkhead.init"]);
            config.annotations = map(&["own", "other", "pod.example/c", "io.bulkhead.init"]);
        };
        let passed = |spec: &serde_json::Value| -> Result<Vec<String>> {
            let all = spec["annotations"].as_object().context("no annotations")?;
            let mut names: Vec<String> = all.keys().cloned().collect();
            names.retain(|name| !name.starts_with("io.kubernetes.cri."));
            names.sort();
            Ok(names)
        };
        let (_, strict) = output(node, "strict", "true", set).await?;
        ensure!(passed(&strict)? == ["own", "pod.example/a"], "{:?}", passed(&strict)?);
        let (_, plain) = output(node, "", "true", set).await?;
        ensure!(passed(&plain)?.is_empty(), "{:?}", passed(&plain)?);
        Ok(())
    });
}

#[test]
fn e7_privileged_with_and_without_the_hosts_devices() {
    test_with(with_handlers(), async |node| -> Result<()> {
        let privileged = |sandbox: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig| {
            pod_security(sandbox).privileged = true;
            security(config).privileged = true;
        };
        // 1:11 is kmsg: a node of the host, then one that the container makes itself.
        let line = "test -c /dev/kmsg && echo node; mknod /own c 1 11 && head -c 1 /own >/dev/null 2>&1 && echo open; test -c /dev/null && echo null";
        for (handler, wanted) in [
            ("", "node\nopen\nnull\n"),
            ("usable", "open\nnull\n"),
            ("bare", "null\n"),
        ] {
            let (found, _) = output(node, handler, line, privileged).await?;
            ensure!(found == wanted, "{handler:?}: {found:?}");
        }
        // What it asks for it gets all the same.
        let (asked, _) = output(
            node,
            "bare",
            "head -c 1 /dev/kmsg >/dev/null && echo open",
            |sandbox, config| {
                sandbox.metadata.get_or_insert_default().name = "asked".into();
                privileged(sandbox, config);
                config.devices.push(v1::Device {
                    host_path: "/dev/kmsg".into(),
                    container_path: "/dev/kmsg".into(),
                    permissions: "rw".into(),
                });
            },
        )
        .await?;
        ensure!(asked == "open\n", "{asked}");
        Ok(())
    });
}

#[test]
fn the_time_zone_is_the_administrators_unless_the_caller_brings_one() {
    let options = Options {
        config: "runtime:\n  timezone: Test/Zone\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        // Without the zone nothing starts, and it is said why.
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        node.sh("mount -t tmpfs tmpfs /usr/share && mkdir -p /usr/share/zoneinfo/Test")?;
        let sandbox = pod(node, "zoneless");
        let id = cri.run_pod(&sandbox).await?;
        let answer = cri.create(&id, &container("main", BUSYBOX, &["true"]), &sandbox).await;
        refused(answer, Code::FailedPrecondition, &["time zone", "Test/Zone"])?;
        node.sh("printf TZif-test > /usr/share/zoneinfo/Test/Zone")?;
        let line = "cat /etc/localtime; echo x > /etc/localtime || echo refused";
        let (zone, _) = output(node, "", line, |_, _| {}).await?;
        ensure!(zone == "TZif-testrefused\n", "{zone}");
        let own = node.dir().join("own-zone");
        std::fs::write(&own, "own")?;
        let (zone, _) = output(node, "", "cat /etc/localtime", |sandbox, config| {
            sandbox.metadata.get_or_insert_default().name = "own".into();
            config.mounts.push(v1::Mount {
                container_path: "/etc/localtime".into(),
                host_path: own.to_string_lossy().into_owned(),
                ..Default::default()
            });
        })
        .await?;
        ensure!(zone == "own", "{zone}");
        node.sh("umount /usr/share")?;
        Ok(())
    });
}

#[test]
fn e7_volume_lines_become_a_mount_a_directory_or_nothing() {
    let image = format!("{}/busybox:volumes", e2e::catalog::REGISTRY);
    let line =
        "grep -c ' /srv ' /proc/mounts; ls -d /data/deep /srv; cat /srv/index.html; touch /srv/x && echo written";
    for (setting, wanted) in [
        ("bind", "1\n/data/deep\n/srv\nserved by the pod\nwritten\n"),
        ("mkdir", "0\n/data/deep\n/srv\nserved by the pod\nwritten\n"),
        ("ignore", "0\n/srv\nserved by the pod\nwritten\n"),
    ] {
        let options = Options {
            config: format!("image:\n  image_volumes: {setting}\n"),
            ..Options::default()
        };
        test_with(options, async |node| -> Result<()> {
            node.cri().pull(&image).await?;
            let (found, _) = output(node, "", line, |_, config| {
                config.image = Some(e2e::cri::spec(&image));
            })
            .await?;
            ensure!(found == wanted, "{setting}: {found:?}");
            Ok(())
        });
    }
}

#[test]
fn e7_without_a_word_about_seccomp_there_is_none() {
    test(async |node| -> Result<()> {
        let (found, _) = output(node, "", "grep Seccomp: /proc/self/status", |_, _| {}).await?;
        ensure!(found == "Seccomp:\t0\n", "{found}");
        Ok(())
    });
}

/// A profile that refuses one call, in a file.
fn profile(dir: &std::path::Path, call: &str) -> Result<String> {
    let path = dir.join(format!("{call}.json"));
    std::fs::write(
        &path,
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {{"names": ["{call}", "{call}at"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}},
                {{"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
                 "excludes": {{"caps": ["CAP_SYS_ADMIN"]}}}}]}}"#
        ),
    )?;
    Ok(path.to_string_lossy().into_owned())
}

#[test]
fn profiles_of_the_node_are_runtime_default_and_the_fence_of_the_privileged() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |call: &str| profile(dir.path(), call).expect("a profile");
    let config = format!(
        "runtime:\n  seccomp_profile: {}\n  privileged_seccomp_profile: {}\nhandlers:\n  own:\n    seccomp_profile: {}\n",
        file("mkdir"),
        file("link"),
        file("mknod"),
    );
    let options = Options {
        config,
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let line = "cd /tmp; for c in 'mkdir d' 'ln /bin/busybox l' 'mknod p p' 'ln -s x s'; do $c 2>/dev/null && echo $c; done; true";
        let default = |config: &mut v1::ContainerConfig| {
            security(config).seccomp = Some(v1::SecurityProfile {
                profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
                localhost_ref: String::new(),
            });
        };
        let all = ["mkdir d", "ln /bin/busybox l", "mknod p p", "ln -s x s"];
        let without = |refused: &[&str]| {
            let left = all.iter().filter(|line| !refused.contains(line));
            left.map(|line| format!("{line}\n")).collect::<String>()
        };
        let (found, _) = output(node, "", line, |_, config| default(config)).await?;
        ensure!(found == without(&["mkdir d", "ln -s x s"]), "the runtime's: {found}");
        let (found, _) = output(node, "own", line, |_, config| default(config)).await?;
        ensure!(found == without(&["mknod p p", "ln -s x s"]), "the handler's: {found}");
        let named = |sandbox: &mut v1::PodSandboxConfig, name: &str| {
            sandbox.metadata.get_or_insert_default().name = name.into();
        };
        let (found, _) = output(node, "", line, |sandbox, _| named(sandbox, "silent")).await?;
        ensure!(found == without(&[]), "nobody asked for RuntimeDefault: {found}");
        // Its rule about links holds for those without CAP_SYS_ADMIN.
        let (found, _) = output(node, "", line, |sandbox, config| {
            named(sandbox, "privileged");
            pod_security(sandbox).privileged = true;
            security(config).privileged = true;
        })
        .await?;
        ensure!(found == without(&["ln /bin/busybox l"]), "of the privileged: {found}");
        Ok(())
    });
}

#[test]
fn default_annotations_are_in_the_specification_of_every_container() {
    let options = Options {
        config: "handlers:\n  noted:\n    default_annotations: ['a=of the node', 'b=of the node', 'io.bulkhead.init=reaper']\n    container_annotations: [b]\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let (_, spec) = output(node, "noted", "true", |_, config| {
            config.annotations = ["a", "b"]
                .map(|name| (name.to_owned(), "of the caller".to_owned()))
                .into();
        })
        .await?;
        let of = |name: &str| spec["annotations"][name].as_str().unwrap_or_default().to_owned();
        ensure!(
            (of("a"), of("b")) == ("of the node".into(), "of the caller".into()),
            "{spec}"
        );
        Ok(())
    });
}

#[test]
fn a_container_has_a_session_keyring_of_its_own_unless_the_handler_says_otherwise() {
    let options = Options {
        config: "handlers:\n  shared:\n    no_new_keyring: true\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        for (handler, own) in [("", true), ("shared", false)] {
            let sandbox = pod(node, "pod");
            let id = cri.run_pod_with(&sandbox, handler).await?;
            let mut config = container("main", BUSYBOX, &["sh", "-c", "cat /proc/keys; echo all; sleep 100000"]);
            security(&mut config).masked_paths.clear();
            let main = cri.run(&id, &config, &sandbox).await?;
            let name = format!("_ses.{}", e2e::cgroups::container(&main));
            // In what is executed as in the first process.
            let keys = cri.sh(&main, "cat /proc/keys").await?;
            ensure!(keys.contains(&name) == own, "{handler:?}: {keys}");
            let path = e2e::logs::path(&sandbox, &config);
            let first = e2e::wait::until("its first lines", Duration::from_secs(60), async || {
                let text = e2e::logs::joined(&e2e::logs::read(&path).unwrap_or_default(), "stdout");
                Ok(text.ends_with("all\n").then_some(text))
            })
            .await?;
            ensure!(first.contains(&name) == own, "{handler:?}: {first}");
            cri.stop(&main, 0).await?;
        }
        Ok(())
    });
}
