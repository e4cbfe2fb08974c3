//! The directory of a network's addresses, as the reference host-local plugin keeps it:
//!
//! | file                  | content                                       |
//! |-----------------------|-----------------------------------------------|
//! | `<address>`           | `<container id>\r\n<interface>`               |
//! | `last_reserved_ip.<n>`| the last address given out of range set n     |
//! | `lock`                | empty; whoever holds its `flock` owns the rest |
//!
//! A store that is open is locked. A process that dies loses the lock with its descriptor.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::fault::{Fault, Result};

/// Who holds an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) container: &'a str,
    pub(super) ifname: &'a str,
}

impl Owner<'_> {
    fn record(&self) -> String {
        format!("{}\r\n{}", self.container, self.ifname)
    }

    /// Whether `content` is this owner's; very old files hold the container id alone.
    fn owns(&self, content: &str) -> bool {
        let content = content.trim();
        content == self.record() || content == self.container
    }
}

/// An open and locked store.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the store, which is made where it is missing.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        match Self::open_existing(dir)? {
            Some(store) => Ok(store),
            None => {
                std::fs::create_dir_all(dir).map_err(Fault::file("create", dir))?;
                Self::lock(dir).map_err(Fault::file("lock", dir))
            }
        }
    }

    /// Opens the store where there is one.
    pub(super) fn open_existing(dir: &Path) -> Result<Option<Self>> {
        match Self::lock(dir) {
            Ok(store) => Ok(Some(store)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::file("lock", dir)(error)),
        }
    }

    fn lock(dir: &Path) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(dir.join("lock"), flags, Mode::from_raw_mode(0o600))?;
        rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: File::from(file),
        })
    }

    /// Takes `ip`; false where somebody has it.
    ///
    /// The record appears under its name whole or not at all: a process killed in between would
    /// else leave a file that names nobody, and so an address that nobody can give back.
    pub(super) fn reserve(&self, ip: IpAddr, owner: &Owner<'_>, range_set: usize) -> Result<bool> {
        let path = self.dir.join(ip.to_string());
        let mut taken = self.publish(&path, owner);
        if matches!(&taken, Err(error) if error.kind() == ErrorKind::AlreadyExists) && is_abandoned(&path)? {
            remove(&path)?;
            taken = self.publish(&path, owner);
        }
        match taken {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(Fault::file("create", &path)(error)),
        }
        let last = self.dir.join(format!("last_reserved_ip.{range_set}"));
        if let Err(fault) = overwrite(&last, ip.to_string().as_bytes()) {
            return Err(crate::fault::undone(fault, remove(&path)));
        }
        Ok(true)
    }

    /// Makes the record of `owner` under `path`, by way of a file without a name.
    fn publish(&self, path: &Path, owner: &Owner<'_>) -> std::io::Result<()> {
        let mode = Mode::from_raw_mode(0o600);
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mut file = match rustix::fs::open(&self.dir, flags, mode) {
            Ok(fd) => File::from(fd),
            // The file system cannot: then as the reference does.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                return file.write_all(owner.record().as_bytes());
            }
            Err(errno) => return Err(errno.into()),
        };
        file.write_all(owner.record().as_bytes())?;
        let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, nameless, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
        Ok(())
    }

    /// The last address given out of a range set; an unreadable record only loses the order.
    pub(super) fn last_reserved(&self, range_set: usize) -> Result<Option<IpAddr>> {
        let path = self.dir.join(format!("last_reserved_ip.{range_set}"));
        Ok(read_small(&path)?.and_then(|text| text.trim().parse().ok()))
    }

    /// Frees `ip` where `owner` holds it; whether he did.
    pub(super) fn free(&self, ip: IpAddr, owner: &Owner<'_>) -> Result<bool> {
        let path = self.dir.join(ip.to_string());
        match read_small(&path)? {
            Some(content) if owner.owns(&content) => remove(&path).map(|()| true),
            _ => Ok(false),
        }
    }

    fn each(&self, mut visit: impl FnMut(IpAddr, &Path, &str) -> Result<()>) -> Result<()> {
        for entry in std::fs::read_dir(&self.dir).map_err(Fault::file("list", &self.dir))? {
            let entry = entry.map_err(Fault::file("list", &self.dir))?;
            // Only files named like an address are addresses; a stranger's file is left alone.
            let Some(ip) = entry.file_name().to_str().and_then(|name| name.parse::<IpAddr>().ok()) else {
                continue;
            };
            let path = entry.path();
            if let Some(content) = read_small(&path)? {
                visit(ip, &path, &content)?;
            }
        }
        Ok(())
    }

    /// Every address that `owner` holds.
    pub(super) fn held_by(&self, owner: &Owner<'_>) -> Result<Vec<IpAddr>> {
        let mut held = Vec::new();
        self.each(|ip, _, content| {
            if owner.owns(content) {
                held.push(ip);
            }
            Ok(())
        })?;
        Ok(held)
    }

    /// Frees everything that `owner` holds.
    pub(super) fn free_all(&self, owner: &Owner<'_>) -> Result<()> {
        self.each(|_, path, content| if owner.owns(content) { remove(path) } else { Ok(()) })
    }

    /// Frees what none of `valid` (container, interface) holds.
    pub(super) fn free_others(&self, valid: &[(String, String)]) -> Result<()> {
        self.each(|_, path, content| {
            let kept = valid
                .iter()
                .any(|(container, ifname)| Owner { container, ifname }.owns(content));
            if kept { Ok(()) } else { remove(path) }
        })
    }
}

/// Whether a writer died between making the file and writing it: whoever writes holds the
/// lock, and now we do.
fn is_abandoned(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_file() && meta.len() == 0),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Fault::file("look at", path)(error)),
    }
}

/// Writes a short file in place. Cutting it to nothing first would free its block, for which a
/// file system that discards waits for the disk.
fn overwrite(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        file.write_all(content)?;
        file.set_len(content.len() as u64)
    };
    write().map_err(Fault::file("write", path))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Fault::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A file of a few hundred bytes at most; none where it is missing.
fn read_small(path: &Path) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Fault::file("open", path)(error)),
    };
    let mut content = Vec::new();
    file.take(1024)
        .read_to_end(&mut content)
        .map_err(Fault::file("read", path))?;
    Ok(Some(String::from_utf8_lossy(&content).into_owned()))
}
