//! The OOM killer: its counter, and a descriptor that becomes readable when it was here.
//!
//! The verdict "OOMKilled" belongs to the counter of the container's own cgroup, compared with its value at start:
//! `oom_kill`, not `oom`, because the limit of the pod raises the latter too (containerd #6323). The descriptor only
//! tells when to look. v1 counts the victims of this very cgroup, v2 those below it too.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{CWD, Mode, OFlags, inotify, openat};

use crate::{Cgroup, Error, Version, file};

/// Readable when the OOM killer may have been at work in the cgroup.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
}

impl OomWatch {
    /// Takes the pending notifications off the descriptor.
    pub fn drain(&self) {
        // Larger than one eventfd count (8) and one inotify event with its name (16 + 256).
        let mut buffer = [0u8; 1024];
        while matches!(rustix::io::read(&self.fd, &mut buffer), Ok(count) if count > 0) {}
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Cgroup {
    /// How many processes of the cgroup the OOM killer has killed so far.
    ///
    /// # Errors
    /// Where there is no memory controller or the cgroup is gone.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        let dir = self.dir("memory").ok_or(Error::Missing {
            what: "the OOM counter",
            controller: "memory",
        })?;
        let name = match dir.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        // v1 has the line since Linux 4.13.
        Ok(file::field(&file::read(&dir.path.join(name))?, "oom_kill").unwrap_or(0))
    }

    /// Starts watching for OOM kills.
    ///
    /// # Errors
    /// Where there is no memory controller, or the host is out of inotify watches.
    pub fn watch_oom(&self) -> Result<OomWatch, Error> {
        let dir = self.dir("memory").ok_or(Error::Missing {
            what: "the OOM watch",
            controller: "memory",
        })?;
        match dir.version {
            Version::V1 => {
                let path = dir.path.join("memory.oom_control");
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                let event = eventfd(0, flags).map_err(|errno| Error::at("make an eventfd for", &path)(errno.into()))?;
                let control = openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|errno| Error::at("open", &path)(errno.into()))?;
                // cgroup-v1/memory.rst section 10: "<event_fd> <fd of memory.oom_control>". The kernel holds both from
                // then on; the registration ends with the eventfd or the cgroup.
                let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
                file::write(&dir.path.join("cgroup.event_control"), &line)?;
                Ok(OomWatch { fd: event })
            }
            Version::V2 => {
                let path = dir.path.join("memory.events");
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let fd = inotify::init(flags).map_err(|errno| Error::at("make an inotify for", &path)(errno.into()))?;
                inotify::add_watch(&fd, &path, inotify::WatchFlags::MODIFY)
                    .map_err(|errno| Error::at("watch", &path)(errno.into()))?;
                Ok(OomWatch { fd })
            }
        }
    }
}
