//! Namespaces: join by descriptor, make, name.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use crate::call::check;

/// Magic number of the filesystem that namespace files lie on.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Joins the namespaces `kinds` (`CLONE_NEW*`) of `fd`: one namespace file, or a pidfd (Linux 5.8), whose process'
/// namespaces are joined all at once or not at all.
///
/// # Errors
/// What setns(2) says.
pub fn setns(fd: BorrowedFd<'_>, kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: a borrowed descriptor and an integer; the kernel follows no pointer.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds) }).map(drop)
}

/// Moves this process into new namespaces of the given kinds.
///
/// # Errors
/// What unshare(2) says; `InvalidInput` for flags that are no namespaces.
pub fn unshare(kinds: libc::c_int) -> io::Result<()> {
    const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | NEWTIME;
    if kinds & !NAMESPACES != 0 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: only namespace flags (checked above), so neither descriptors nor memory come apart between threads.
    check(unsafe { libc::unshare(kinds) }).map(drop)
}

/// `CLONE_NEWTIME`.
pub const NEWTIME: libc::c_int = 0x80;

/// Opens the namespace file `path` of the host.
///
/// # Errors
/// What open(2) says; `InvalidInput` where it is no namespace file.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let fd = rustix::fs::openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )?;
    if rustix::fs::fstatfs(&fd)?.f_type as u64 == NSFS_MAGIC {
        Ok(fd)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a namespace file"))
    }
}

/// Whether two descriptors are of the same namespace.
///
/// # Errors
/// What fstat(2) says.
pub fn same(a: impl AsFd, b: impl AsFd) -> io::Result<bool> {
    let (a, b) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Sets the host name of this UTS namespace.
///
/// # Errors
/// What sethostname(2) says: EINVAL above 64 bytes.
pub fn set_hostname(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

/// Sets the NIS domain name of this UTS namespace.
///
/// # Errors
/// What setdomainname(2) says: EINVAL above 64 bytes.
pub fn set_domainname(name: &str) -> io::Result<()> {
    Ok(rustix::system::setdomainname(name.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespace_files_open() {
        assert!(open(Path::new("/proc/self/ns/net")).is_ok());
        assert_eq!(
            open(Path::new("/proc/self/status")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn only_namespaces_are_unshared() {
        assert_eq!(
            unshare(libc::CLONE_FILES).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn a_new_one_differs_and_setns_leads_back() {
        let child = crate::process::fork(|| {
            let run = || {
                let old = open(Path::new("/proc/self/ns/uts"))?;
                unshare(libc::CLONE_NEWUTS)?;
                let new = open(Path::new("/proc/self/ns/uts"))?;
                setns(old.as_fd(), libc::CLONE_NEWUTS)?;
                let back = open(Path::new("/proc/self/ns/uts"))?;
                io::Result::Ok(!same(&old, &new)? && same(&old, &back)?)
            };
            u8::from(!run().unwrap_or(false))
        })
        .unwrap();
        assert_eq!(crate::process::wait(child).unwrap(), crate::process::Exit::Code(0));
    }
}
