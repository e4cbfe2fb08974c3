//! A private procfs: a mount that nobody else can reach, so that what is written below it cannot be redirected by
//! something bound over `/proc` (CVE-2019-16884, CVE-2025-52881). Every write resolves beneath the handle, without
//! links and without crossing into another mount, and asks the file itself whether it is procfs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{OFlags, ResolveFlags};

use crate::mount::{Context, NODEV, NOEXEC, NOSUID};

const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// A detached procfs mount of this process' pid namespace.
#[derive(Debug)]
pub struct Procfs {
    mount: OwnedFd,
}

impl Procfs {
    /// Mounts one.
    ///
    /// # Errors
    /// What fsopen(2), fsconfig(2) and fsmount(2) say.
    pub fn private() -> io::Result<Self> {
        Ok(Self {
            mount: Context::open("proc")?.mount(NOSUID | NODEV | NOEXEC)?,
        })
    }

    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let fd = crate::path::openat2(
            self.mount.as_fd(),
            path,
            flags | OFlags::CLOEXEC | OFlags::NOCTTY,
            resolve,
        )?;
        if rustix::fs::fstatfs(&fd)?.f_type as u64 != PROC_SUPER_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a procfs file"));
        }
        Ok(fd)
    }

    /// Writes `value` in one piece to `path`, relative to the procfs.
    ///
    /// # Errors
    /// What openat2(2) and write(2) say; `WriteZero` where only a part was taken.
    pub fn write(&self, path: impl AsRef<Path>, value: &[u8]) -> io::Result<()> {
        let fd = self.open(path.as_ref(), OFlags::WRONLY)?;
        if rustix::io::write(&fd, value)? == value.len() {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::WriteZero))
        }
    }

    /// Writes `value` in one piece to the file `name` of the calling thread, wherever this procfs was mounted: its own
    /// link says which directory is the thread's.
    ///
    /// # Errors
    /// As [`Procfs::write`]; `InvalidData` where the link is none of procfs.
    pub fn write_own(&self, name: &str, value: &[u8]) -> io::Result<()> {
        let link = rustix::fs::readlinkat(&self.mount, "thread-self", Vec::new())?;
        let dir = link.to_str().map_err(|_| io::ErrorKind::InvalidData)?;
        let numbers: Vec<&str> = dir.split('/').collect();
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match numbers[..] {
            [pid, "task", tid] if number(pid) && number(tid) => self.write(Path::new(dir).join(name), value),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The whole of `path`, relative to the procfs.
    ///
    /// # Errors
    /// What openat2(2) and read(2) say.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = std::fs::File::from(self.open(path.as_ref(), OFlags::RDONLY)?);
        io::Read::read_to_end(&mut io::Read::take(file, 1 << 20), &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_writes_and_stays_inside() {
        let proc = Procfs::private().unwrap();
        assert!(proc.read("sys/kernel/ostype").unwrap().starts_with(b"Linux"));
        assert!(proc.read("self/status").is_err(), "self is a link");
        assert!(proc.read("../etc/passwd").is_err());
        assert!(proc.read("/etc/passwd").is_err());
        let own = format!("{}/oom_score_adj", std::process::id());
        proc.write(&own, &proc.read(&own).unwrap()).unwrap();
        assert!(proc.write(&own, b"rubbish").is_err());
    }

    #[test]
    fn a_thread_writes_its_own_files() {
        let proc = Procfs::private().unwrap();
        std::thread::spawn(move || {
            proc.write_own("comm", b"bulkhead-own").unwrap();
            let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            assert_eq!(name, "bulkhead-own\n");
            assert!(proc.write_own("../../1/comm", b"x").is_err());
            assert!(proc.write_own("attr/none", b"x").is_err());
        })
        .join()
        .unwrap();
    }
}
