//! Making a cgroup in every hierarchy, in one pass.
//!
//! v1 cpuset starts empty and then refuses every process (ENOSPC at join), so cpus and mems are copied
//! down from the first ancestor that has them: by the kernel where the parent has `cgroup.clone_children`, else by
//! writing. Each write has the scheduling domains made anew, for which the kernel walks all cpusets and all their
//! tasks, of every pod of the node (rebuild_sched_domains). v2 offers a controller in a directory only when each
//! ancestor names it in `cgroup.subtree_control`.
//!
//! On hybrid hosts the v2 tree is ours alone and empty ancestors are pruned by `fs::remove`, so a mkdir
//! may race with a prune: ENOENT starts the walk again.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::Hierarchy;
use crate::{Error, Version, file};

const RACES: u32 = 16;

/// Makes `path` in all hierarchies; undoes what it made where one fails.
pub(crate) fn create(hierarchies: &[Hierarchy], host: Version, path: &str) -> Result<(), Error> {
    let mut made: Vec<PathBuf> = Vec::new();
    for hierarchy in hierarchies {
        // A v2 tree beside v1 is a help (cgroup.kill, hugetlb), not a need: whoever runs it (systemd) may
        // refuse controllers there.
        let optional = host == Version::V1 && hierarchy.version == Version::V2;
        match one(hierarchy, path, &mut made) {
            Ok(()) => {}
            Err(_) if optional => {}
            Err(error) => {
                for dir in made.iter().rev() {
                    // Best effort on the way out; the first error is the one to tell.
                    rustix::fs::rmdir(dir).ok();
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

fn one(hierarchy: &Hierarchy, path: &str, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    let dir = hierarchy.dir(path);
    if hierarchy.version == Version::V1 && hierarchy.carries("cpuset") {
        clone_children(&hierarchy.mount, &dir);
    }
    mkdir_all(&hierarchy.mount, &dir, made)?;
    match hierarchy.version {
        Version::V1 if hierarchy.carries("cpuset") => inherit_cpuset(&hierarchy.mount, &dir),
        Version::V1 => Ok(()),
        Version::V2 => enable_controllers(hierarchy, &dir),
    }
}

fn mkdir_all(mount: &Path, dir: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    for _ in 0..RACES {
        match mkdir(dir, made) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.map_err(Error::at("make", dir)),
        }
        let mut ancestors: Vec<&Path> = dir.ancestors().skip(1).take_while(|one| *one != mount).collect();
        ancestors.reverse();
        for ancestor in ancestors {
            match mkdir(ancestor, made) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                other => other.map_err(Error::at("make", ancestor))?,
            }
        }
    }
    mkdir(dir, made).map_err(Error::at("make", dir))
}

fn mkdir(dir: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    match rustix::fs::mkdir(dir, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            made.push(dir.to_owned());
            Ok(())
        }
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Has the kernel fill what is made beside `dir` from now on, and below it, from the parent of `dir`. Only a shorter way:
/// where there is no parent yet, or the kernel refuses, `inherit_cpuset` writes.
fn clone_children(mount: &Path, dir: &Path) {
    if let Some(parent) = dir.parent().filter(|parent| *parent != mount) {
        file::write(&parent.join("cgroup.clone_children"), "1").ok();
    }
}

/// Fills `cpuset.cpus` and `cpuset.mems` of `dir` from its nearest ancestor, which is filled first.
fn inherit_cpuset(mount: &Path, dir: &Path) -> Result<(), Error> {
    let names = ["cpuset.cpus", "cpuset.mems"];
    let mut empty = false;
    for name in names {
        empty |= file::read(&dir.join(name))?.trim().is_empty();
    }
    if !empty || dir == mount {
        return Ok(());
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    inherit_cpuset(mount, parent)?;
    for name in names {
        if file::read(&dir.join(name))?.trim().is_empty() {
            file::write(&dir.join(name), file::read(&parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

/// Enables the wanted controllers in every ancestor of `dir`, from the top.
fn enable_controllers(hierarchy: &Hierarchy, dir: &Path) -> Result<(), Error> {
    if hierarchy.controllers.is_empty() {
        return Ok(());
    }
    let mut ancestors: Vec<&Path> = dir
        .ancestors()
        .skip(1)
        .take_while(|one| one.starts_with(&hierarchy.mount))
        .collect();
    ancestors.reverse();
    for ancestor in ancestors {
        let control = ancestor.join("cgroup.subtree_control");
        let enabled = file::read(&control)?;
        let missing: Vec<&str> = hierarchy
            .controllers
            .iter()
            .map(String::as_str)
            .filter(|name| !enabled.split_whitespace().any(|on| on == *name))
            .collect();
        if missing.is_empty() {
            continue;
        }
        let all = missing
            .iter()
            .map(|name| format!("+{name}"))
            .collect::<Vec<_>>()
            .join(" ");
        if file::write(&control, &all).is_ok() {
            continue;
        }
        // The kernel takes all or none: name by name, so that one that cannot be had (cpu with realtime
        // processes about) does not cost the others; a limit that then needs it says so.
        let mut last = None;
        let mut any = false;
        for name in missing {
            match file::write(&control, &format!("+{name}")) {
                Ok(()) => any = true,
                Err(error) => last = Some(error),
            }
        }
        if let Some(error) = last.filter(|_| !any) {
            return Err(error);
        }
    }
    Ok(())
}
