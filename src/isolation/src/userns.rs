//! User namespaces, made by a child that only holds one until its maps are written and somebody has its file.
//!
//! The maps are written from outside, with the host's `CAP_SETUID` and `CAP_SETGID`: so any ids may be mapped, and
//! `setgroups` stays allowed (user_namespaces(7); it must be denied only where a map is written without privilege,
//! CVE-2014-8989). The namespace belongs to the host's root, and lives on in the descriptor.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use crate::plan::userns::{Maps, text};
use crate::{Error, holder};

/// A new user namespace with these maps.
pub(crate) fn make(maps: &Maps) -> Result<OwnedFd, Error> {
    let make = || sys::ns::unshare(libc::CLONE_NEWUSER);
    holder::held("user namespace", make, |pid| {
        for (name, lines) in [("uid_map", &maps.uids), ("gid_map", &maps.gids)] {
            let path = format!("/proc/{pid}/{name}");
            // The kernel wants the whole map in one write(2).
            std::fs::write(&path, text(lines)).map_err(Error::sys("write", &path))?;
        }
        let path = format!("/proc/{pid}/ns/user");
        sys::ns::open(Path::new(&path)).map_err(Error::sys("open", path))
    })
}

/// Moves this process into it, with all capabilities there; who it is, it says later (`init::identity::become_root`).
pub(crate) fn enter(namespace: &OwnedFd) -> Result<(), Error> {
    sys::ns::setns(namespace.as_fd(), libc::CLONE_NEWUSER).map_err(Error::sys("join", "user namespace"))
}
