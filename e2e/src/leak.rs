//! What a node left behind: processes, mounts, namespace files, interfaces, firewall
//! rules, cgroups, addresses, files under its state.
//!
//! Called when every pod is removed and the server has ended. A bridge stays, as it does
//! with the reference plugins; so do empty directories and the monitors' empty cgroup.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cgroups;
use crate::engine::{BRIDGE, Engine};
use crate::node::Node;

/// Where a reboot shows another boot id.
pub(crate) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

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
        if mount != "/run/netns" && mount != BOOT_ID {
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
        found.extend(aside(node)?);
    }
    Ok(found)
}

/// Writable layers that no container has any more.
fn aside(node: &Node) -> Result<Vec<String>> {
    let names = entries(&node.inside(&node.root_dir().join("snapshots")))?;
    Ok(names.into_iter().map(|name| format!("root/snapshots/{name}")).collect())
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

/// A process of a node.
#[derive(Debug)]
pub struct Process {
    /// As the node's pid namespace counts.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Its arguments, joined by spaces.
    pub command: String,
}

/// Living processes of the node, those in the containers' own pid namespaces included, but
/// not its first one: what the node's own `/proc` shows.
#[must_use]
pub fn living(init: u32) -> Vec<Process> {
    let proc = PathBuf::from(format!("/proc/{init}/root/proc"));
    // Without a pid namespace of its own a node's processes are those in its slices and mounts.
    let mounts = fs::read_link(format!("/proc/{init}/ns/mnt")).ok();
    // Who made these namespaces is in them.
    let holder = crate::service::parent_of(init);
    let is_own = |pid: u32| {
        let by_slice = || {
            fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).is_ok_and(|text| text.contains("/bh.slice/"))
        };
        let by_mounts = || fs::read_link(proc.join(pid.to_string()).join("ns/mnt")).ok() == mounts;
        !cgroups::by_systemd() || pid != init && Some(pid) != holder && (by_slice() || by_mounts())
    };
    let numbers = entries(&proc)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| name.parse::<u32>().ok());
    let read = |pid: u32, file: &str| fs::read_to_string(proc.join(pid.to_string()).join(file)).unwrap_or_default();
    numbers
        .filter(|pid| *pid != 1 && is_own(*pid))
        .map(|pid| Process {
            pid,
            comm: read(pid, "comm").trim().to_owned(),
            command: read(pid, "cmdline").replace('\0', " ").trim().to_owned(),
        })
        // A zombie has no arguments, and a process that has just gone has no name either.
        .filter(|process| !process.command.is_empty())
        .collect()
}

fn processes(node: &Node, found: &mut Vec<String>) -> Result<()> {
    // A monitor ends just after its last client has gone; the spawner, when the daemon has.
    let gone = crate::wait::blocking("every process has ended", std::time::Duration::from_secs(3), || {
        Ok(living(node.init()).is_empty().then_some(()))
    });
    if gone.is_err() {
        let left = living(node.init()).into_iter();
        found.extend(left.map(|process| format!("process {} {}: {}", process.pid, process.comm, process.command)));
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
    let mounts = hierarchies.iter().map(|name| Path::new("/sys/fs/cgroup").join(name));
    for mount in mounts.chain([PathBuf::from("/sys/fs/cgroup")]) {
        // The second server of a test has the same name with an appendix.
        for name in [node.name().to_owned(), format!("{}-second", node.name())] {
            let root = mount.join(cgroups::root(&name).trim_start_matches('/'));
            if root.is_dir() {
                collect(&root, &mut all);
            }
        }
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
        let kept = [node.name().to_owned(), format!("{}-second", node.name())]
            .iter()
            .any(|name| {
                let root = PathBuf::from(cgroups::root(name).trim_start_matches('/'));
                let scope = format!("{name}-monitors.scope");
                let pods = format!("{name}-pods.slice");
                ["", "monitors", "pods", &scope, &pods]
                    .iter()
                    .any(|own| directory.ends_with(root.join(own)))
            });
        // A parent that the test itself named is the kubelet's, that is: the test's.
        let tests_own = directory
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("parent-") && !cgroups::by_systemd());
        if !kept && !tests_own {
            found.push(format!("cgroup {}", directory.display()));
        }
    }
    Ok(())
}

/// Removes the node's cgroups. Of those that have processes yet, the last ones are just
/// ending: it is tried for a while.
pub fn remove_cgroups(node: &Node) {
    if cgroups::by_systemd() {
        for name in [node.name().to_owned(), format!("{}-second", node.name())] {
            // A slice that is not there is fine.
            let stop = std::process::Command::new("systemctl")
                .args(["stop", &format!("{name}.slice")])
                .output();
            drop(stop);
        }
    }
    for _ in 0..40 {
        let all = cgroup_dirs(node);
        if all.is_empty() {
            return;
        }
        for directory in all {
            fs::remove_dir(directory).ok();
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
}
