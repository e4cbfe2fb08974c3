//! The root: attached over the old one, pivoted to, and at the end made what the spec says.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use sys::mount::{self, Attr, Propagation, RDONLY};
use sys::path::Root;

use crate::Error;
use crate::plan::Plan;

/// Makes `rootfs` the root of this mount namespace. What was there before is gone from sight.
pub(super) fn enter(rootfs: &OwnedFd) -> Result<Root, Error> {
    private()?;
    let old = Root::open("/").map_err(Error::sys("open", "/"))?;
    mount::attach(rootfs.as_fd(), old.as_fd()).map_err(Error::sys("attach", "the root filesystem"))?;
    pivot(rootfs)
}

/// Makes `rootfs` seen at `path` of the host, in this mount namespace.
pub(super) fn stage(rootfs: &OwnedFd, path: &Path) -> Result<Root, Error> {
    private()?;
    let target = Root::open(path).map_err(Error::sys("open", path.display()))?;
    mount::attach(rootfs.as_fd(), target.as_fd()).map_err(Error::sys("attach", "the root filesystem"))?;
    Root::open(path).map_err(Error::sys("open", path.display()))
}

/// Makes `rootfs`, which is attached, the root, and takes the old one out of sight.
pub(super) fn pivot(rootfs: &OwnedFd) -> Result<Root, Error> {
    mount::pivot(rootfs.as_fd()).map_err(Error::sys("pivot to", "the root filesystem"))?;
    Root::open("/").map_err(Error::sys("open", "the new root"))
}

fn private() -> Result<(), Error> {
    // Before anything is attached: nothing done here may reach the host's mounts, and pivot_root(2) refuses shared
    // parents.
    let private = Attr {
        propagation: Some(Propagation::Private),
        ..Attr::default()
    };
    mount::set_attr_at(c"/", true, private).map_err(Error::sys("make private", "all mounts"))
}

/// Propagation and read-only state of the root mount alone: each other mount has its own.
pub(super) fn finish(plan: &Plan) -> Result<(), Error> {
    let attr = Attr {
        set: if plan.rootfs_readonly { RDONLY } else { 0 },
        clear: 0,
        propagation: plan.rootfs_propagation.map(|(propagation, _)| propagation),
    };
    if attr == Attr::default() {
        return Ok(());
    }
    mount::set_attr_at(c"/", false, attr).map_err(Error::sys("change", "the root mount"))
}
