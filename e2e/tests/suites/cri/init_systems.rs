//! Containers that divide their cgroup: init systems, and the handlers' `cgroup_writable`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::{map_container, map_pod, pod, security};
use e2e::limits::{Kernel, is_v2};
use e2e::{Bed, Node, Options, container, test, test_with};
use proto::cri as v1;

/// Tells what it found, divides its cgroup as systemd does, and halts at SIGRTMIN+3 alone.
const SYSTEMD: &str = r#"#!/bin/sh
echo "manager $container"
for place in /run /run/lock /tmp; do
    grep " $place tmpfs " /proc/mounts | cut -d' ' -f2,3
    touch $place/written 2>/dev/null && echo "wrote $place"
done
cd /sys/fs/cgroup
if mkdir inner 2>/dev/null; then
    for pid in $(cat cgroup.procs); do echo $pid > inner/cgroup.procs; done
    echo +pids > cgroup.subtree_control && echo divided
    [ ! -e pids.max ] || (echo max > pids.max) 2>/dev/null || echo "limits stay"
else
    echo "not divided"
fi
trap '' TERM
trap 'echo halted; exit 0' 37
echo up
while :; do sleep 0.1; done
"#;

const DIRECTORIES: &str = "/run tmpfs\nwrote /run\n/run/lock tmpfs\nwrote /run/lock\n/tmp tmpfs\nwrote /tmp\n";

/// A container whose program is called systemd.
fn systemd(node: &Node, name: &str) -> Result<v1::ContainerConfig> {
    let dir = node.dir().join("systemd");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("systemd"), SYSTEMD)?;
    fs::set_permissions(dir.join("systemd"), fs::Permissions::from_mode(0o755))?;
    let mut config = container(name, BUSYBOX, &["/lib/systemd/systemd"]);
    config.mounts = vec![v1::Mount {
        container_path: "/lib/systemd".into(),
        host_path: dir.to_string_lossy().into_owned(),
        readonly: true,
        ..Default::default()
    }];
    Ok(config)
}

/// What it has said, when it is up.
async fn up(sandbox: &v1::PodSandboxConfig, config: &v1::ContainerConfig) -> Result<String> {
    let path = e2e::logs::path(sandbox, config);
    e2e::wait::until("the init system is up", Duration::from_secs(60), async || {
        // The file comes with the first line.
        let lines = e2e::logs::read(&path).unwrap_or_default();
        let text = e2e::logs::joined(&lines, "stdout");
        Ok(text.ends_with("up\n").then_some(text))
    })
    .await
}

#[test]
fn an_init_system_has_its_directories_its_stop_signal_and_its_cgroup() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = systemd(node, "main")?;
        let id = bed.run(&config).await?;
        let cgroup = if is_v2() {
            "divided\nlimits stay\n"
        } else {
            "not divided\n"
        };
        let text = up(&bed.config, &config).await?;
        let wanted = format!("manager oci\n{DIRECTORIES}{cgroup}up\n");
        ensure!(text == wanted, "{text}, not {wanted}");
        // Who comes later finds a door.
        ensure!(bed.cri.sh(&id, "echo inside").await? == "inside\n", "no exec");
        let status = bed.cri.container_status(&id).await?;
        ensure!(
            status.stop_signal() == v1::Signal::Sigrtminplus3,
            "{:?}",
            status.stop_signal()
        );
        bed.cri.stop(&id, 60).await?;
        let status = bed.cri.container_status(&id).await?;
        ensure!(status.exit_code == 0, "{status:?}");
        let lines = e2e::logs::read(&e2e::logs::path(&bed.config, &config))?;
        ensure!(e2e::logs::joined(&lines, "stdout").ends_with("halted\n"), "{lines:?}");
        bed.cri.remove(&id).await?;
        Ok(())
    });
}

#[test]
fn where_the_node_does_not_want_it_an_init_system_is_a_program_like_others() {
    let options = Options {
        config: "handlers:\n  plain:\n    init_systems: false\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        let sandbox = pod(node, "pod");
        let id = cri.run_pod_with(&sandbox, "plain").await?;
        let config = systemd(node, "main")?;
        let main = cri.run(&id, &config, &sandbox).await?;
        let text = up(&sandbox, &config).await?;
        ensure!(
            text.starts_with("manager \n") && !text.contains("tmpfs") && text.contains("not divided"),
            "{text}"
        );
        let status = cri.container_status(&main).await?;
        ensure!(status.stop_signal() == v1::Signal::Sigterm, "{status:?}");
        cri.stop(&main, 0).await?;
        Ok(())
    });
}

#[test]
fn a_writable_cgroup_is_the_users_and_its_limits_are_not() {
    if !is_v2() {
        // `e6_every_handler_is_listed_with_its_features_and_no_other_is_taken` sees that it is refused.
        return;
    }
    let options = Options {
        config: "handlers:\n  writable:\n    cgroup_writable: true\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        let line = "cd /sys/fs/cgroup && mkdir inner && echo $$ > inner/cgroup.procs && grep -cx $$ inner/cgroup.procs; \
                    (echo max > pids.max) 2>/dev/null || echo limits stay; stat -c %u cgroup.procs pids.max";
        let mut plain = container("plain", BUSYBOX, &["sh", "-c", line]);
        let mut other = plain.clone();
        other.metadata.get_or_insert_default().name = "other".into();
        other.log_path = "other.log".into();
        security(&mut other).run_as_user = Some(v1::Int64Value { value: 1000 });
        let mut inside = plain.clone();
        map_container(&mut inside);
        // Which of the processes it starts are counted already is nobody's business: itself is in it, once.
        for (config, userns, wanted) in [
            (&mut plain, false, "1\nlimits stay\n0\n0\n"),
            (&mut other, false, "1\nlimits stay\n1000\n0\n"),
            (&mut inside, true, "1\nlimits stay\n0\n65534\n"),
        ] {
            let mut sandbox = pod(node, "pod");
            if userns {
                map_pod(&mut sandbox);
            }
            let id = cri.run_pod_with(&sandbox, "writable").await?;
            let main = cri.run(&id, config, &sandbox).await?;
            let status = cri.exited(&main).await?;
            let lines = e2e::logs::read(&e2e::logs::path(&sandbox, config))?;
            let text = e2e::logs::joined(&lines, "stdout");
            ensure!(
                text == wanted && status.exit_code == 0,
                "{text}, not {wanted}: {lines:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_second_process_finds_its_way_into_a_cgroup_that_was_divided() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let kernel = Kernel::of(node, &bed.cri, &id).await?;
        // From the host, in the tree of v2, which on a hybrid host has but one controller.
        let Ok(dir) = kernel.dir("") else { return Ok(()) };
        let offered = fs::read_to_string(dir.join("cgroup.controllers"))?;
        let Some(controller) = offered.split_whitespace().next() else {
            return Ok(());
        };
        fs::create_dir(dir.join("inner"))?;
        e2e::wait::until("the cgroup is divided", Duration::from_secs(20), async || {
            for pid in fs::read_to_string(dir.join("cgroup.procs"))?.lines() {
                // One that has ended meanwhile needs no place.
                fs::write(dir.join("inner/cgroup.procs"), pid).ok();
            }
            // What has forked meanwhile holds the door.
            let divided = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            Ok(divided.ok())
        })
        .await?;
        let place = bed.cri.sh(&id, "grep ^0:: /proc/self/cgroup").await?;
        ensure!(place.trim_end().ends_with("/inner"), "{place}");
        bed.cri.stop(&id, 0).await?;
        bed.cri.remove(&id).await?;
        ensure!(!dir.exists(), "the cgroup stays");
        Ok(())
    });
}

#[test]
fn a_process_that_comes_before_a_cgroup_is_divided_does_not_bar_it() {
    if !is_v2() {
        // Nobody inside may divide it there.
        return;
    }
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let kernel = Kernel::of(node, &bed.cri, &id).await?;
        let dir = kernel.dir("")?;
        fs::create_dir(dir.join("inner"))?;
        let procs = || fs::read_to_string(dir.join("cgroup.procs"));
        e2e::wait::until("nobody is in it", Duration::from_secs(20), async || {
            for pid in procs()?.lines() {
                // One that has ended meanwhile needs no place.
                fs::write(dir.join("inner/cgroup.procs"), pid).ok();
            }
            Ok(procs()?.is_empty().then_some(()))
        })
        .await?;
        // The shell ends; what it started stays.
        bed.cri.sh(&id, "sleep 1000 >/dev/null 2>&1 &").await?;
        ensure!(procs()?.is_empty(), "it stands in the door");
        fs::write(dir.join("cgroup.subtree_control"), "+pids")?;
        let place = bed.cri.sh(&id, "grep ^0:: /proc/self/cgroup").await?;
        ensure!(place.trim_end().ends_with("/inner"), "{place}");
        bed.cri.stop(&id, 0).await?;
        bed.cri.remove(&id).await?;
        ensure!(!dir.exists(), "the cgroup stays");
        Ok(())
    });
}
