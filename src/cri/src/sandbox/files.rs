//! A pod's files on tmpfs: `/dev/shm`, `resolv.conf`, `hostname`, `hosts`. Blocking calls,
//! but only on the state directory.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use config::Paths;
use image::IdShift;
use rustix::mount::{MountFlags, UnmountFlags};
use spec::SandboxId;

use super::plan::SandboxPlan;
use crate::container::plan::mounts::PodFiles;
use crate::error::Error;

/// `/etc/hosts` of a pod whose kubelet brings none.
fn hosts(paths: &Paths, id: &SandboxId) -> PathBuf {
    paths.pod(id).join("hosts")
}

/// Where the pod's files are; with the host's IPC, `/dev/shm` is the host's.
pub(crate) fn of(paths: &Paths, id: &SandboxId, host_ipc: bool) -> PodFiles {
    PodFiles {
        shm: if host_ipc {
            PathBuf::from("/dev/shm")
        } else {
            paths.shm(id)
        },
        resolv_conf: paths.resolv_conf(id),
        hostname: paths.hostname(id),
        hosts: hosts(paths, id),
    }
}

fn directory(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|e| Error::at("make the directory", path.display(), &e))
}

fn file(path: &Path, content: &str) -> Result<(), Error> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .map_err(|e| Error::at("make", path.display(), &e))?;
    file.write_all(content.as_bytes())
        .map_err(|e| Error::at("write", path.display(), &e))
}

/// Gives a file of ours to the root of the pod's user namespace.
pub(crate) fn give(path: &Path, shift: IdShift) -> Result<(), Error> {
    std::os::unix::fs::lchown(path, Some(shift.uid), Some(shift.gid))
        .map_err(|e| Error::at("change the owner of", path.display(), &e))
}

/// Makes the directories that pinning needs.
pub(crate) fn make_directories(paths: &Paths, id: &SandboxId) -> Result<(), Error> {
    directory(&paths.pod(id))?;
    directory(&paths.pod_namespaces(id))
}

/// Writes the files and mounts `/dev/shm`.
pub(crate) fn make(paths: &Paths, id: &SandboxId, plan: &SandboxPlan) -> Result<(), Error> {
    let shift = plan.record.shift();
    for (path, content) in [
        (paths.resolv_conf(id), &plan.resolv_conf),
        (paths.hostname(id), &plan.hostname_file),
        (hosts(paths, id), &plan.hosts_file),
    ] {
        file(&path, content)?;
        give(&path, shift)?;
    }
    if plan.shm {
        let shm = paths.shm(id);
        directory(&shm)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("shm", &shm, "tmpfs", flags, c"mode=1777,size=65536k")
            .map_err(|e| Error::at("mount tmpfs on", shm.display(), &e))?;
        give(&shm, shift)?;
    }
    Ok(())
}

/// Takes mounts off `path` until none is left; a path without any is fine.
pub(crate) fn unmount(path: &Path) -> Result<(), Error> {
    for _ in 0..16 {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
            Err(e) => return Err(Error::at("unmount", path.display(), &e)),
        }
    }
    Ok(())
}

/// Removes a file or empty directory; one that is gone is fine.
pub(crate) fn unlink(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::at("remove", path.display(), &e)),
        _ => Ok(()),
    }
}

/// Removes a directory of ours with all that is in it; one that is gone is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::at("remove", path.display(), &e)),
        _ => Ok(()),
    }
}

/// Removes the log of a container that was never made whole. The kubelet counts a container's attempts by its log files
/// (`calcRestartCountByLogDir`): an empty one would make the next attempt a restart. What has lines stays.
pub(crate) fn remove_empty_log(path: &str) -> Result<(), Error> {
    let there = fs::symlink_metadata(path).is_ok_and(|is| is.is_file() && is.len() == 0);
    match there.then(|| fs::remove_file(path)) {
        Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::at("remove the empty log", path, &e)),
        _ => Ok(()),
    }
}

/// Removes the files; `/dev/shm` goes with the namespaces. Safe on what is half made and on what is gone.
pub(crate) fn remove(paths: &Paths, id: &SandboxId) -> Result<(), Error> {
    remove_tree(&paths.pod(id))
}
