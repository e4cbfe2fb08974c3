//! A real systemd as a container's program, on a node where systemd makes the cgroups (`hack/vm`): the node's own, by
//! its `/usr`. What it starts, watches and stops are units of ours; what Debian would start of itself is not asked for.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::catalog::BUSYBOX;
use e2e::cgroups::by_systemd;
use e2e::config::{map_container, map_pod};
use e2e::{Bed, Node, Options, container, test_with};
use proto::cri as v1;

const PROGRAM: &str = "/lib/systemd/systemd";

/// Writes that it runs, and when it is stopped in order that it was.
const SERVICE: &str = "[Service]
Type=notify
NotifyAccess=all
User=app
ExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 100000'
ExecStopPost=+/bin/sh -c 'echo stopped >>/told/stopped'
TasksMax=7
[Install]
WantedBy=multi-user.target
";

/// Of the node's directories, under the names that programs of Debian know.
const BORROWED: [&str; 4] = ["/usr", "/lib", "/lib64", "/sbin"];

/// A container with the node's systemd, and the directory that its units write to.
fn systemd(node: &Node, is_mapped: bool) -> Result<(v1::ContainerConfig, PathBuf)> {
    let dir = node.dir().join("systemd");
    let (units, told) = (dir.join("units"), dir.join("told"));
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    fs::create_dir_all(&told)?;
    if is_mapped {
        chown(&told, Some(e2e::config::MAPPED), Some(e2e::config::MAPPED))?;
    }
    fs::write(units.join("told.service"), SERVICE)?;
    fs::write(dir.join("machine-id"), "b01dface000040008000000000000001\n")?;
    for (link, to) in [
        ("multi-user.target.wants/told.service", "../told.service"),
        ("default.target", "/usr/lib/systemd/system/multi-user.target"),
        // It would put the id on the disk below what is mounted.
        ("systemd-machine-id-commit.service", "/dev/null"),
    ] {
        symlink(to, units.join(link))?;
    }
    let mount = |target: &str, source: &Path, readonly: bool| v1::Mount {
        container_path: target.into(),
        host_path: source.to_string_lossy().into_owned(),
        readonly,
        ..Default::default()
    };
    let mut config = container("main", BUSYBOX, &[PROGRAM]);
    config.mounts = BORROWED.map(|path| mount(path, Path::new(path), true)).into();
    config.mounts.extend([
        mount("/etc/systemd/system", &units, true),
        // Without one it takes itself for new, and asks at the console how it is to be set up.
        mount("/etc/machine-id", &dir.join("machine-id"), true),
        mount("/told", &told, false),
    ]);
    Ok((config, told))
}

/// Waits until it has started all that it was to start; what it says of itself then.
async fn booted(bed: &Bed, id: &str) -> Result<String> {
    let limit = 100 * i64::from(e2e::wait::patience());
    let ask = ["/usr/bin/systemctl", "is-system-running", "--wait"];
    e2e::wait::until("systemd has started all", Duration::from_secs(60), async || {
        let answer = bed.cri.exec_with(id, &ask, limit).await?;
        let said = answer.stdout.trim();
        // "offline" or nothing: its socket is not there yet.
        let is_done = ["running", "degraded", "maintenance", "stopping"].contains(&said);
        Ok(is_done.then(|| said.to_owned()))
    })
    .await
}

async fn lives_and_ends(node: &Node, bed: &Bed, is_mapped: bool) -> Result<()> {
    let (mut config, told) = systemd(node, is_mapped)?;
    if is_mapped {
        map_container(&mut config);
    }
    let id = bed.run(&config).await?;
    let state = booted(bed, &id).await?;
    if state != "running" {
        let line = "systemctl --failed --plain --no-legend; journalctl --no-pager -p warning -n 30";
        bail!("it is {state}: {}", bed.exec(&id, &["sh", "-c", line]).await?.stdout);
    }
    // Our unit is one of its own cgroups, with a limit, and its process is the user's.
    let line = "systemctl is-active told && systemctl show -P ControlGroup told && cat /sys/fs/cgroup/system.slice/told.service/pids.max \
                && systemctl show -P Result told && stat -c %U /proc/$(systemctl show -P MainPID told)";
    let said = bed.cri.sh(&id, line).await?;
    ensure!(
        said == "active\n/system.slice/told.service\n7\nsuccess\napp\n",
        "{said}"
    );
    // A second one, made while it runs, that falls and is caught.
    let line = "systemd-run --quiet --unit falls --property Restart=on-failure --property RestartSec=100ms \
                sh -c 'echo >>/told/tries; [ $(wc -l </told/tries) -ge 3 ] || exit 1; exec sleep 100000'";
    bed.cri.sh(&id, line).await?;
    e2e::wait::until("the third try stays", Duration::from_secs(20), async || {
        let tries = fs::read_to_string(told.join("tries"))
            .unwrap_or_default()
            .lines()
            .count();
        Ok((tries == 3).then_some(()))
    })
    .await?;
    ensure!(!told.join("stopped").exists(), "it was stopped before its time");
    bed.cri.stop(&id, 90 * i64::from(e2e::wait::patience())).await?;
    let status = bed.cri.container_status(&id).await?;
    ensure!(status.exit_code == 0 && status.reason == "Completed", "{status:?}");
    let stopped = fs::read_to_string(told.join("stopped"))?;
    ensure!(stopped == "stopped\n", "{stopped:?}");
    bed.cri.remove(&id).await?;
    Ok(())
}

/// What it does is in its own journal; the server's log would hide it.
fn quiet() -> Options {
    Options {
        quiet: true,
        ..Options::default()
    }
}

#[test]
fn a_real_systemd_comes_to_run_and_ends_in_order() {
    if !by_systemd() {
        return;
    }
    test_with(quiet(), async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        lives_and_ends(node, &bed, false).await
    });
}

#[test]
fn a_real_systemd_runs_in_a_user_namespace() {
    if !by_systemd() {
        return;
    }
    test_with(quiet(), async |node| -> Result<()> {
        let bed = Bed::with(node, map_pod).await?;
        lives_and_ends(node, &bed, true).await
    });
}
