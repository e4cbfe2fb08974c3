//! Owner, mode, extended attributes and time of an entry, in the order that keeps them:
//! chown clears set-id bits and file capabilities, so it comes first; the time comes last.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags, chmodat, chownat, fchmod, fchown, fsetxattr, futimens,
    utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::UnpackError;
use super::tar::{Entry, EntryKind};

/// Which attributes of an archive may take effect: `trusted.overlay.*` would redirect the
/// overlay, `security.ima` or `security.selinux` would label host files.
fn allowed(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || matches!(
            name,
            b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
        )
}

pub(super) fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let mtime = Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanos),
    };
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: mtime,
    }
}

/// All but the time, on an open file or directory.
pub(super) fn apply(fd: impl AsFd, entry: &Entry) -> Result<(), UnpackError> {
    let fd = fd.as_fd();
    fchown(fd, Some(owner(entry)?.0), Some(owner(entry)?.1)).map_err(UnpackError::io("chown"))?;
    fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(UnpackError::io("chmod"))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| allowed(name)) {
        match fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            // Filesystems without user attributes or ACLs, as containerd and docker have it.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => {
                let what = format!("set attribute {:?}", String::from_utf8_lossy(name));
                return Err(UnpackError::Io {
                    op: what,
                    source: errno.into(),
                });
            }
        }
    }
    Ok(())
}

pub(super) fn apply_time(fd: impl AsFd, mtime: (i64, u32)) -> Result<(), UnpackError> {
    futimens(fd, &times(mtime)).map_err(UnpackError::io("set the time"))
}

/// Owner, mode and time of what cannot be opened: a link, device or pipe that was just made.
pub(super) fn apply_at(parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
    let (uid, gid) = owner(entry)?;
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(UnpackError::io("chown"))?;
    if entry.kind != EntryKind::Symlink {
        chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty()).map_err(UnpackError::io("chmod"))?;
    }
    utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(UnpackError::io("set the time"))
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), UnpackError> {
    // All ones mean "leave as it is" to chown(2).
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return Err(UnpackError::hostile("its owner is 4294967295, which is no id"));
    }
    Ok((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_would_reach_the_host_are_dropped() {
        for name in ["user.a", "security.capability", "system.posix_acl_access"] {
            assert!(allowed(name.as_bytes()), "{name}");
        }
        for name in [
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "user.overlay.opaque",
            "trusted.x",
            "security.ima",
            "security.selinux",
            "",
        ] {
            assert!(!allowed(name.as_bytes()), "{name}");
        }
    }
}
