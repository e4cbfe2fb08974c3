//! Network namespaces: opened by path, checked to be one, entered for the length of a closure.
//!
//! Entering changes the calling thread only. Whoever calls [`NetNs::within`] is back where he
//! was when it returns; when the way back is barred, that is an error above all others.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::Error;

/// `NSFS_MAGIC` (linux/magic.h): what `fstatfs` of a namespace file says.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// An open network namespace.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
}

impl NetNs {
    /// Opens `path`, which must be a namespace: a plain file there is what a reboot leaves.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |op| {
            move |source: std::io::Error| Error::Namespace {
                op,
                path: path.to_owned(),
                source,
            }
        };
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
            .map_err(|errno| fail("open")(errno.into()))?;
        let kind = rustix::fs::fstatfs(&fd).map_err(|errno| fail("fstatfs")(errno.into()))?;
        #[allow(clippy::unnecessary_cast, reason = "f_type has another width on other architectures")]
        if kind.f_type as i64 != NSFS_MAGIC {
            let wrong = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the file is no namespace");
            return Err(fail("open")(wrong));
        }
        Ok(Self {
            file: File::from(fd),
            path: path.to_owned(),
        })
    }

    /// The namespace this thread is in.
    ///
    /// # Errors
    /// When procfs is not there.
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Whether both are the same namespace.
    ///
    /// # Errors
    /// When either cannot be asked.
    pub fn same(&self, other: &Self) -> Result<bool, Error> {
        let stat = |ns: &Self| {
            rustix::fs::fstat(&ns.file)
                .map(|stat| (stat.st_dev, stat.st_ino))
                .map_err(|errno| Error::Namespace {
                    op: "fstat",
                    path: ns.path.clone(),
                    source: errno.into(),
                })
        };
        Ok(stat(self)? == stat(other)?)
    }

    /// Waits until nobody else who asks for it has this namespace to himself, and has it from then on, until `self` is
    /// dropped or the process ends. A caller that was killed leaves its plugin running: a DEL must not pass an ADD that is
    /// still at work, or what that makes afterwards stays.
    ///
    /// # Errors
    /// What flock(2) says.
    pub fn lock(&self) -> Result<(), Error> {
        let locked =
            rustix::io::retry_on_intr(|| rustix::fs::flock(&self.file, rustix::fs::FlockOperation::LockExclusive));
        locked.map_err(|errno| Error::Namespace {
            op: "flock",
            path: self.path.clone(),
            source: errno.into(),
        })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn enter(&self) -> Result<(), Error> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| {
            Error::Namespace {
                op: "setns",
                path: self.path.clone(),
                source: errno.into(),
            }
        })
    }

    /// Runs `work` inside, then returns to `home`, which must be where the thread is now.
    ///
    /// # Errors
    /// When either step into a namespace is refused, or what `work` returns.
    pub fn within<T, E: From<Error>>(&self, home: &Self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.enter()?;
        let result = work();
        home.enter()?;
        result
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_no_namespace() {
        let error = NetNs::open(Path::new("/etc/passwd")).unwrap_err();
        assert!(error.to_string().contains("/etc/passwd"), "{error}");
        assert!(
            NetNs::open(Path::new("/proc/self/ns/no-such"))
                .unwrap_err()
                .is_missing()
        );
    }

    #[test]
    fn one_at_a_time_has_a_namespace_to_himself() {
        let (a, b) = (NetNs::current().unwrap(), NetNs::current().unwrap());
        a.lock().unwrap();
        let try_lock = || rustix::fs::flock(&b.file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        assert_eq!(try_lock().unwrap_err(), rustix::io::Errno::WOULDBLOCK);
        drop(a);
        assert!(try_lock().is_ok());
    }

    #[test]
    fn this_thread_is_in_its_own_namespace() {
        let (a, b) = (NetNs::current().unwrap(), NetNs::current().unwrap());
        assert!(a.same(&b).unwrap());
    }
}
