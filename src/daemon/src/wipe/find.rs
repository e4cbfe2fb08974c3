//! Finds what a stopped daemon left. Changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use config::{Config, Paths};
use spec::{ContainerId, SandboxId};

use super::Step;
use super::mounts::{Mount, parse};
use crate::socket;

/// Cgroups lie at most so deep: the kubelet's pods are at four, a nested kubelet's at eight.
const DEPTH: usize = 16;

/// What there is to look through; tests give their own.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) paths: Paths,
    pub(crate) socket: PathBuf,
    pub(crate) cgroup_root: String,
    /// Text of `/proc/self/mountinfo`.
    pub(crate) mounts: String,
}

impl Place {
    /// This host.
    pub(crate) fn of(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            paths: config.paths(),
            socket: config.socket(),
            cgroup_root: config.cgroup_root.clone(),
            mounts: fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?,
        })
    }
}

/// All that is to be done, in order.
pub(crate) fn find(place: &Place) -> anyhow::Result<Vec<Step>> {
    let paths = &place.paths;
    let containers: BTreeSet<ContainerId> = names(&paths.containers())?
        .iter()
        .filter_map(|name| ContainerId::parse(name).ok())
        .collect();
    let pods: BTreeSet<SandboxId> = [paths.pods(), paths.namespaces()]
        .iter()
        .map(|dir| names(dir))
        .collect::<anyhow::Result<Vec<_>>>()?
        .concat()
        .iter()
        .filter_map(|name| SandboxId::parse(name).ok())
        .collect();
    let mounts = parse(&place.mounts);
    let mut steps = Vec::new();
    steps.extend(cgroups(place, &mounts, &containers, &pods));
    steps.extend(monitors(paths, &containers));
    if paths.root_lock().is_file() && has_files(&paths.cni_cache()) {
        steps.push(Step::ReleaseNetworks {
            cache: paths.cni_cache(),
        });
    }
    steps.extend(own_cgroups(place, &mounts));
    steps.extend(unmounts(paths, &mounts, &pods));
    steps.extend(files(place, &pods)?);
    Ok(steps)
}

/// Monitors that are alive. Who listens on a container's socket is its monitor: the kernel
/// reports the pid that called listen(2) (unix(7), `SO_PEERCRED`).
fn monitors(paths: &Paths, containers: &BTreeSet<ContainerId>) -> Vec<Step> {
    let pid = |container: &ContainerId| {
        let stream = socket::connect(&paths.monitor_socket(container)).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
        Some(Step::EndMonitor {
            pid: peer.pid.as_raw_nonzero().get(),
            container: container.to_string(),
        })
    };
    containers.iter().filter_map(pid).collect()
}

/// Cgroups that carry the id of a container, and pod cgroups of our own making; containers
/// first, since they lie inside pods. The kubelet's pod cgroups are the kubelet's.
fn cgroups(
    place: &Place,
    mounts: &[Mount],
    containers: &BTreeSet<ContainerId>,
    pods: &BTreeSet<SandboxId>,
) -> Vec<Step> {
    let own = Path::new("/").join(&place.cgroup_root).join("pods");
    let mut found: BTreeSet<(bool, PathBuf)> = BTreeSet::new();
    for hierarchy in mounts
        .iter()
        .filter(|mount| mount.kind == "cgroup" || mount.kind == "cgroup2")
    {
        walk(&hierarchy.at, DEPTH, &mut |path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(inner) = path.strip_prefix(&hierarchy.at) else {
                return;
            };
            let inner = Path::new("/").join(inner);
            let is_container = ContainerId::parse(name).is_ok_and(|id| containers.contains(&id));
            let is_pod = inner.parent() == Some(&own) && SandboxId::parse(name).is_ok_and(|id| pods.contains(&id));
            if is_container || is_pod {
                found.insert((is_pod, inner));
            }
        });
    }
    found
        .into_iter()
        .map(|(_, path)| Step::RemoveCgroup {
            path: path.display().to_string(),
        })
        .collect()
}

/// The cgroups in which those of pods and monitors lie, inner ones first.
fn own_cgroups(place: &Place, mounts: &[Mount]) -> Option<Step> {
    let hierarchies = mounts
        .iter()
        .filter(|mount| mount.kind == "cgroup" || mount.kind == "cgroup2");
    let own = hierarchies.flat_map(|hierarchy| {
        let top = hierarchy.at.join(&place.cgroup_root);
        [top.join("monitors"), top.join("pods"), top]
    });
    let paths: Vec<PathBuf> = own.filter(|path| path.is_dir()).collect();
    (!paths.is_empty()).then(|| Step::RemoveEmptyCgroups {
        name: place.cgroup_root.clone(),
        paths,
    })
}

/// Calls `see` for each directory below `dir`. What vanishes meanwhile is left out.
fn walk(dir: &Path, depth: usize, see: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            see(&path);
            walk(&path, depth - 1, see);
        }
    }
}

/// Mounts below root and state, and this daemon's network namespaces; the newest first.
fn unmounts(paths: &Paths, mounts: &[Mount], pods: &BTreeSet<SandboxId>) -> Vec<Step> {
    let namespaces: Vec<PathBuf> = pods.iter().map(|pod| paths.network_namespace(pod)).collect();
    let is_ours = |mount: &&Mount| {
        let is_below = |dir: &Path| mount.at.starts_with(dir) && mount.at != dir;
        is_below(&paths.root) || is_below(&paths.state) || namespaces.contains(&mount.at)
    };
    mounts
        .iter()
        .rev()
        .filter(is_ours)
        .map(|mount| Step::Unmount { path: mount.at.clone() })
        .collect()
}

fn files(place: &Place, pods: &BTreeSet<SandboxId>) -> anyhow::Result<Vec<Step>> {
    let paths = &place.paths;
    let mut steps = Vec::new();
    for pod in pods {
        let namespace = paths.network_namespace(pod);
        if exists(&namespace) {
            steps.push(Step::RemoveFile { path: namespace });
        }
    }
    if exists(&place.socket) && !place.socket.starts_with(&paths.state) {
        steps.push(Step::RemoveFile {
            path: place.socket.clone(),
        });
    }
    for dir in [&paths.state, &paths.root] {
        // Without the lock no daemon ever worked here: a mistyped --root must cost nothing.
        if !dir.join("daemon.lock").is_file() {
            continue;
        }
        for name in names(dir)? {
            let path = dir.join(&name);
            // Held by ourselves while we work; removed last of all.
            if name == "daemon.lock" {
                continue;
            }
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            steps.push(if is_dir {
                Step::RemoveTree { path }
            } else {
                Step::RemoveFile { path }
            });
        }
        steps.push(Step::RemoveFile {
            path: dir.join("daemon.lock"),
        });
    }
    Ok(steps)
}

/// Whether there is a file in `dir` or below it.
fn has_files(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => has_files(&entry.path()),
        _ => true,
    })
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Names in `dir`, sorted; none where it is not there.
fn names(dir: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(
            entry
                .with_context(|| format!("list {}", dir.display()))?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    /// A host in a directory: root, state, and something that looks like a cgroup hierarchy.
    fn place(dir: &Path) -> Place {
        let paths = Paths {
            root: dir.join("root"),
            state: dir.join("state"),
        };
        for made in [
            format!("state/containers/{}", id('c')),
            format!("state/pods/{}", id('a')),
            format!("state/ns/{}", id('a')),
            "root/layers/x".to_owned(),
            "root/cni/results".to_owned(),
            format!("cg/kubepods/pod7/{}", id('c')),
            format!("cg/kubepods/pod7/{}", id('d')),
            format!("cg/bulkhead/pods/{}", id('a')),
            format!("cg/bulkhead/pods/{}", id('b')),
            format!("cg/elsewhere/{}", id('a')),
        ] {
            fs::create_dir_all(dir.join(made)).unwrap();
        }
        for file in [
            "root/cni/results/x",
            "root/daemon.lock",
            "root/bulkhead.db",
            "state/daemon.lock",
        ] {
            fs::write(dir.join(file), "").unwrap();
        }
        let at = dir.display();
        let mounts = format!(
            "1 0 0:1 / {at}/cg rw - cgroup cgroup rw,memory\n\
             2 0 0:2 / {at}/state rw - tmpfs tmpfs rw\n\
             3 0 0:3 / {at}/state/pods/{a}/shm rw - tmpfs tmpfs rw\n\
             4 0 0:4 / {at}/state/ns/{a}/ipc rw - nsfs nsfs rw\n\
             5 0 0:5 / {at}/statement/x rw - tmpfs tmpfs rw\n\
             6 0 0:6 / /run/netns/bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb rw - nsfs nsfs rw\n\
             7 0 0:7 / /run/netns/aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa rw - nsfs nsfs rw\n",
            a = id('a')
        );
        Place {
            socket: paths.socket(),
            paths,
            cgroup_root: "bulkhead".into(),
            mounts,
        }
    }

    #[test]
    fn only_what_carries_an_id_of_this_daemon_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        let found: Vec<String> = find(&place(dir.path()))
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        let found: Vec<String> = found.iter().map(|step| step.replace(&at, "")).collect();
        let (a, c) = (id('a'), id('c'));
        assert_eq!(
            found,
            [
                format!("kill all in cgroup /kubepods/pod7/{c} and remove it"),
                format!("kill all in cgroup /bulkhead/pods/{a} and remove it"),
                "release the networks recorded in /root/cni".into(),
                "remove cgroup /bulkhead where it is empty".into(),
                "unmount /run/netns/aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa".into(),
                format!("unmount /state/ns/{a}/ipc"),
                format!("unmount /state/pods/{a}/shm"),
                "remove /state/containers and all below it".into(),
                "remove /state/ns and all below it".into(),
                "remove /state/pods and all below it".into(),
                "remove /state/daemon.lock".into(),
                "remove /root/bulkhead.db".into(),
                "remove /root/cni and all below it".into(),
                "remove /root/layers and all below it".into(),
                "remove /root/daemon.lock".into(),
            ]
        );
    }

    #[test]
    fn a_directory_that_no_daemon_used_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        fs::remove_file(place.paths.root_lock()).unwrap();
        let root = place.paths.root.display().to_string();
        assert!(
            find(&place)
                .unwrap()
                .iter()
                .all(|step| !step.to_string().contains(&root))
        );
    }

    #[test]
    fn a_live_monitor_is_found_by_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let container = ContainerId::parse(&id('c')).unwrap();
        let path = place.paths.monitor_socket(&container);
        let (_listener, _bound) = socket::listen(&path).unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let wanted = Step::EndMonitor {
            pid,
            container: id('c'),
        };
        assert!(find(&place).unwrap().contains(&wanted));
    }
}
