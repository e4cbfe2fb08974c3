//! Idmapped bind mounts: the ids on the source's filesystem are those of the container, whatever stands behind them.
//!
//! Done by the creator on the detached copy, because it takes `CAP_SYS_ADMIN` over the filesystem (mount_setattr(2),
//! Linux 5.12 and a filesystem that has joined in since). Nothing on the filesystem itself changes owner.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::plan::mounts::{IdMapped, Mount};
use crate::plan::userns::User;
use crate::{Error, userns};

/// Maps the ids of `tree`; through the container's own namespace where the maps are the same.
pub(super) fn set(
    tree: &OwnedFd,
    mount: &Mount,
    wanted: &IdMapped,
    own: Option<(&User, &OwnedFd)>,
) -> Result<(), Error> {
    let field = || format!("mounts[{}]", mount.target.display());
    let set = |namespace: &OwnedFd| sys::mount::set_idmap(tree.as_fd(), wanted.recursive, namespace.as_fd());
    let result = match (&wanted.maps, own) {
        // Refused by the plan.
        (None, None) => return Ok(()),
        (None, Some((_, namespace))) => set(namespace),
        (Some(maps), Some((user, namespace))) if *maps == user.maps => set(namespace),
        (Some(maps), _) => set(&userns::make(maps)?),
    };
    result.map_err(|error| match error.raw_os_error() {
        // EINVAL: this filesystem cannot; EPERM: it belongs to another user namespace, or has been mapped already.
        Some(libc::EINVAL | libc::EPERM) => Error::state(
            format!("{}: source {}", field(), mount.source().display()),
            format!("{} does not support idmapped mounts here ({error})", filesystem(tree)),
        ),
        _ => Error::sys("map the ids of", field())(error),
    })
}

/// Its name for people, by the magic numbers of linux/magic.h that are met most.
fn filesystem(tree: &OwnedFd) -> String {
    let known = |stat: rustix::fs::StatFs| match stat.f_type.cast_unsigned() {
        0x6969 => "nfs".to_owned(),
        0x6573_5546 => "fuse".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x9fa0 => "procfs".to_owned(),
        0x6265_6572 => "sysfs".to_owned(),
        0x5346_4846 | 0x0102_1997 => "9p".to_owned(),
        0xff53_4d42 | 0xfe53_4d42 => "cifs".to_owned(),
        other => format!("its filesystem (type {other:#x})"),
    };
    let stat = rustix::fs::fstatfs(tree).map_err(io::Error::from);
    stat.map_or_else(|_| "its filesystem".to_owned(), known)
}
