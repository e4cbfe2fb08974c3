//! What a node left behind: processes, mounts, namespace files, interfaces, firewall
//! rules, cgroups, addresses, files under its state.
//!
//! Called when every pod is removed and the server has ended. A bridge stays, as it does
//! with the reference plugins; so do empty directories and the monitors' empty cgroup.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::engine::{BRIDGE, Engine};
use crate::node::Node;

/// What was there before the server was started.
#[derive(Debug, Default)]
pub struct Baseline {
    mounts: BTreeSet<String>,
}

impl Baseline {
    /// Looks at the namespaces of process `init`.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn take(init: u32) -> Result<Self> {
        Ok(Self { mounts: mounts(init)? })
    }
}

/// Mount points in the mount namespace of a process.
fn mounts(pid: u32) -> Result<BTreeSet<String>> {
    let path = format!("/proc/{pid}/mountinfo");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(str::to_owned)
        .collect())
}

/// Everything that should not be there any more, one line each.
///
/// # Errors
/// Where something cannot be looked at.
pub fn check(node: &Node, baseline: &Baseline) -> Result<Vec<String>> {
    let mut found = Vec::new();
    processes(node, &mut found)?;
    for mount in mounts(node.init())?.difference(&baseline.mounts) {
        // `ip netns` and the reference plugins make this directory a mount point of its own; it holds nothing.
        if mount != "/run/netns" {
            found.push(format!("mount {mount}"));
        }
    }
    for name in entries(&node.inside(Path::new("/run/netns")))? {
        found.push(format!("network namespace /run/netns/{name}"));
    }
    interfaces(node, &mut found)?;
    rules(node, &mut found)?;
    cgroups(node, &mut found)?;
    for name in entries(&node.dir().join("ipam/e2e"))? {
        if name.starts_with("10.") {
            found.push(format!("address {name} is still leased"));
        }
    }
    if node.options().engine == Engine::Bulkhead {
        for directory in ["containers", "pods", "ns"] {
            for name in entries(&node.inside(&node.state_dir().join(directory)))? {
                found.push(format!("state/{directory}/{name}"));
            }
        }
        for name in entries(&node.inside(&node.root_dir().join("snapshots")))? {
            found.push(format!("root/snapshots/{name}"));
        }
    }
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("list {}", directory.display()))?,
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Living processes in the node's pid namespace, but for its first one.
#[must_use]
pub fn living(init: u32) -> Vec<(u32, String)> {
    let Ok(ours) = fs::read_link(format!("/proc/{init}/ns/pid")) else {
        return Vec::new();
    };
    let Ok(all) = entries(Path::new("/proc")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for pid in all.iter().filter_map(|name| name.parse::<u32>().ok()) {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        // A container with a pid namespace of its own is in a child of the node's namespace: NSpid tells.
        let inside = fs::read_link(proc.join("ns/pid")).is_ok_and(|namespace| namespace == ours) || nested(pid, init);
        if pid != init && inside {
            let command = fs::read_to_string(proc.join("cmdline"))
                .unwrap_or_default()
                .replace('\0', " ");
            let state = fs::read_to_string(proc.join("status")).unwrap_or_default();
            if !state.contains("State:\tZ") && !command.starts_with("nsenter") {
                found.push((pid, command));
            }
        }
    }
    found
}

/// Whether `pid` descends from `init`.
fn nested(pid: u32, init: u32) -> bool {
    let mut at = pid;
    for _ in 0..64 {
        let Ok(stat) = fs::read_to_string(format!("/proc/{at}/stat")) else {
            return false;
        };
        let Some(parent) = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok())
        else {
            return false;
        };
        if parent == init {
            return true;
        }
        if parent <= 1 {
            return false;
        }
        at = parent;
    }
    false
}

fn processes(node: &Node, found: &mut Vec<String>) -> Result<()> {
    // A monitor ends just after its last client has gone; the spawner, when the daemon has.
    let gone = crate::wait::blocking("every process has ended", std::time::Duration::from_secs(3), || {
        Ok(living(node.init()).is_empty().then_some(()))
    });
    if gone.is_err() {
        found.extend(
            living(node.init())
                .into_iter()
                .map(|(pid, command)| format!("process {pid}: {command}")),
        );
    }
    Ok(())
}

fn interfaces(node: &Node, found: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(format!("/proc/{}/net/dev", node.init()))?;
    for name in text
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next())
        .map(str::trim)
    {
        // The kernel makes tunnel devices in every new namespace, where those modules are built in.
        let kernels = [
            "lo", "sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0",
        ]
        .contains(&name);
        if name != BRIDGE && !kernels {
            found.push(format!("interface {name}"));
        }
    }
    Ok(())
}

/// Rules that name a pod's address or a container; chains and tables of the plugins may stay.
fn rules(node: &Node, found: &mut Vec<String>) -> Result<()> {
    let text = node.sh("nft list ruleset 2>/dev/null || true")?;
    for line in text.lines().map(str::trim) {
        let address = line
            .match_indices("10.88.")
            .any(|(at, _)| !line[at..].starts_with("10.88.0.0/16"));
        if address || line.contains("dnat") {
            found.push(format!("firewall rule {line}"));
        }
    }
    Ok(())
}

/// The node's directories in every cgroup hierarchy, deepest first.
fn cgroup_dirs(node: &Node) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let Ok(hierarchies) = entries(Path::new("/sys/fs/cgroup")) else {
        return all;
    };
    let roots = hierarchies
        .iter()
        .map(|name| Path::new("/sys/fs/cgroup").join(name).join(node.name()));
    for root in roots
        .chain([Path::new("/sys/fs/cgroup").join(node.name())])
        .filter(|root| root.is_dir())
    {
        collect(&root, &mut all);
    }
    all
}

fn collect(directory: &Path, all: &mut Vec<PathBuf>) {
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        {
            collect(&entry.path(), all);
        }
    }
    all.push(directory.to_owned());
}

fn cgroups(node: &Node, found: &mut Vec<String>) -> Result<()> {
    for directory in cgroup_dirs(node) {
        let kept = directory.ends_with(node.name())
            || ["monitors", "pods"]
                .iter()
                .any(|kept| directory.ends_with(Path::new(node.name()).join(kept)));
        // A parent that the test itself named is the kubelet's, that is: the test's.
        let tests_own = directory
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("parent-"));
        if !kept && !tests_own {
            found.push(format!("cgroup {}", directory.display()));
        }
    }
    Ok(())
}

/// Removes the node's cgroups; those with processes stay (the holder's end empties them).
pub fn remove_cgroups(node: &Node) {
    for directory in cgroup_dirs(node) {
        fs::remove_dir(directory).ok();
    }
}
