//! What a server costs, all its helpers with it: processor time and memory, as the kernel counts them.
//!
//! With [`crate::Options::accounted`] the server starts in a cgroup of its own, which holds what it starts too:
//! plugins, runtimes, shims. Our monitors have another one beside it. The pods' own are the kubelet's. Its place in the
//! freezer is the same ([`crate::still`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::node::Node;
use crate::{leak, still};

/// Of the node's cgroups, the one with the pods.
const PODS: &str = "kubelet";

/// The leak check takes a name that begins so for the test's own.
const SERVER: &str = "parent-server";

/// The hierarchy that counts processor time.
fn hierarchy() -> PathBuf {
    let alone = Path::new("/sys/fs/cgroup/cpuacct");
    let all = Path::new("/sys/fs/cgroup");
    if alone.exists() { alone } else { all }.to_owned()
}

/// A command inside the node that first enters the server's cgroups.
///
/// # Errors
/// Where the cgroup cannot be made.
pub(crate) fn enter(node: &Node, program: &Path) -> Result<Command> {
    let mut command = node.enter("sh");
    let script = "while [ \"$1\" != -- ]; do echo 0 > \"$1\" || exit 1; shift; done; shift; exec \"$@\"";
    command.args(["-c", script, "sh"]);
    // With v2 one hierarchy does both.
    let freezer = still::hierarchy().map(Path::to_owned);
    for hierarchy in [Some(hierarchy()), freezer].into_iter().flatten() {
        let directory = hierarchy.join(node.name()).join(SERVER);
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        command.arg(directory.join("cgroup.procs"));
    }
    command.arg("--").arg(program);
    Ok(command)
}

/// Processor time of the server and its helpers since the node began, those that were killed included.
///
/// # Errors
/// Where the kernel does not say.
pub fn processor(node: &Node) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for entry in fs::read_dir(hierarchy().join(node.name()))?.flatten() {
        if entry.file_name() != PODS && entry.path().is_dir() {
            sum += used(&entry.path())?;
        }
    }
    Ok(sum)
}

fn used(directory: &Path) -> Result<Duration> {
    let of = |error| format!("read the processor time of {}: {error}", directory.display());
    if let Ok(text) = fs::read_to_string(directory.join("cpuacct.usage")) {
        return Ok(Duration::from_nanos(
            text.trim().parse().map_err(of).map_err(anyhow::Error::msg)?,
        ));
    }
    let text = fs::read_to_string(directory.join("cpu.stat"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(Duration::from_micros(
        value.context("cpu.stat has no usage_usec")?.parse()?,
    ))
}

/// PSS of the server and its helpers, in kB.
///
/// # Errors
/// Where no process of theirs is found.
pub fn memory(node: &Node) -> Result<u64> {
    let (own, pods) = (format!("/{}/", node.name()), format!("/{}/{PODS}/", node.name()));
    let mut sum = 0;
    for process in leak::living(node.init()) {
        let proc = node.inside(Path::new(&format!("/proc/{}", process.pid)));
        // It may be gone by now.
        let Ok(groups) = fs::read_to_string(proc.join("cgroup")) else {
            continue;
        };
        if groups.contains(&own) && !groups.contains(&pods) {
            let rollup = fs::read_to_string(proc.join("smaps_rollup")).unwrap_or_default();
            sum += value_of(&rollup, "Pss:").unwrap_or(0);
        }
    }
    anyhow::ensure!(sum > 0, "no process is in the server's cgroup");
    Ok(sum)
}

/// Resident memory of one process, in kB.
#[must_use]
pub fn resident(pid: u32) -> Option<u64> {
    value_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")
}

/// A value in kB of a file of `/proc`.
fn value_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}
