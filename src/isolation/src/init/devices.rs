//! Device nodes and the links that every program expects in `/dev`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, makedev, mknodat};
use sys::path::{Links, Root};

use crate::Error;
use crate::plan::devices::{Devices, Node};

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

pub(super) fn make(root: &Root, devices: &Devices, host: &[OwnedFd]) -> Result<(), Error> {
    for (node, host) in devices.bound.iter().zip(host) {
        let object = || node.path.display().to_string();
        let target = root
            .make_file(&node.path, 0o644, links(&node.path))
            .map_err(Error::sys("make", object()))?;
        sys::mount::attach(host.as_fd(), target.as_fd()).map_err(Error::sys("bind", object()))?;
    }
    for node in &devices.made {
        one(root, node, &node.path)?;
    }
    if devices.links {
        link(root)?;
    }
    Ok(())
}

/// Makes the nodes that go into `dev`, a `/dev` that is not attached yet.
pub(crate) fn make_ahead(dev: &Root, devices: &Devices) -> Result<(), Error> {
    devices
        .ahead
        .iter()
        .try_for_each(|node| one(dev, node, node.path.strip_prefix("/dev").unwrap_or(&node.path)))
}

/// An image may lay out its directories as it likes, but not with links below `/dev` (CVE-2026-47766).
fn links(path: &Path) -> Links {
    if path.starts_with("/dev") {
        Links::Refuse
    } else {
        Links::Follow
    }
}

fn one(root: &Root, node: &Node, path: &Path) -> Result<(), Error> {
    let object = || node.path.display().to_string();
    let (dir, name) = root
        .parent(path, 0o755, links(&node.path))
        .map_err(Error::sys("make the directory of", object()))?;
    let device = makedev(node.major, node.minor);
    match mknodat(&dir, name, node.file_type, Mode::from_raw_mode(node.mode), device) {
        Ok(()) => {}
        // The image's own node is good where it is the same one.
        Err(rustix::io::Errno::EXIST) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(Error::sys("open", object()))?;
            let stat = rustix::fs::fstat(&found).map_err(Error::sys("stat", object()))?;
            let same = rustix::fs::FileType::from_raw_mode(stat.st_mode) == node.file_type && stat.st_rdev == device;
            if !same {
                return Err(Error::state(object(), "the image has something else there: refused"));
            }
        }
        Err(error) => return Err(Error::sys("make node", object())(error)),
    }
    if (node.uid, node.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        rustix::fs::chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::sys("change the owner of", object()))?;
    }
    Ok(())
}

fn link(root: &Root) -> Result<(), Error> {
    let dev = root
        .mkdir_all("/dev", 0o755, Links::Refuse)
        .map_err(Error::sys("make", "/dev"))?;
    for (name, target) in LINKS {
        let object = || format!("/dev/{name}");
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) => {}
            // A node in the image would be the host's multiplexer, not that of the container's devpts.
            Err(rustix::io::Errno::EXIST) if name == "ptmx" => {
                rustix::fs::unlinkat(&dev, name, AtFlags::empty()).map_err(Error::sys("remove", object()))?;
                rustix::fs::symlinkat(target, &dev, name).map_err(Error::sys("link", object()))?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(Error::sys("link", object())(error)),
        }
    }
    Ok(())
}
