//! A layer's tar stream becomes a directory, which overlayfs can stack on any other.
//!
//! Blocking; runs on a thread of its own. The directory is new, mode 0700 above it, and ours
//! alone; still nothing in it is ever reached by a path that a hostile entry could have bent
//! (`tree`). Order for each entry: name checked (`limits`), markers (`whiteout`), parent
//! opened or made, what stands in the way removed, entry made, `meta` applied. Times of
//! directories are set at the end, because every entry below changes them.
//!
//! What an entry meets at its place: a directory meets a directory and changes it; anything
//! else replaces what was there, as in docker and containerd.

mod limits;
mod meta;
mod pax;
mod sparse;
pub(crate) mod tar;
#[cfg(test)]
mod tests;
pub(crate) mod tree;
mod whiteout;

use std::io::BufRead;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ftruncate, linkat, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use spec::Kind;
use thiserror::Error;

pub(crate) use limits::Limits;
use tar::{Archive, Entry, EntryKind, TarError};
use tree::{Tree, is_whiteout, lstat, set_opaque};
use whiteout::Marker;

const BLOCK: u64 = 4096;

/// Why a layer cannot be unpacked.
#[derive(Debug, Error)]
pub(crate) enum UnpackError {
    /// The stream broke, was no tar, or could not be decompressed.
    #[error("{0}")]
    Tar(#[from] TarError),
    /// Content that would do harm, or that no tool in good faith makes.
    #[error("{0}")]
    Hostile(String),
    #[error("{op}: {source}")]
    Io { op: String, source: std::io::Error },
    #[error("it has {size} bytes, {free} are free")]
    NoSpace { size: u64, free: u64 },
}

impl UnpackError {
    pub(super) fn hostile(what: impl Into<String>) -> Self {
        Self::Hostile(what.into())
    }

    fn io(op: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io {
            op: op.into(),
            source: errno.into(),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Tar(TarError::Read(e)) => match e.kind() {
                std::io::ErrorKind::InvalidInput
                | std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::UnexpectedEof => Kind::DataLoss,
                _ => Kind::of_io(e),
            },
            Self::Tar(TarError::Truncated(_)) => Kind::DataLoss,
            Self::Tar(TarError::Bad(_)) | Self::Hostile(_) => Kind::InvalidArgument,
            Self::Io { source, .. } => match Errno::from_io_error(source) {
                Some(Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ) => Kind::InvalidArgument,
                _ => Kind::of_io(source),
            },
            Self::NoSpace { .. } => Kind::ResourceExhausted,
        }
    }
}

/// What a layer turned out to be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Disk blocks of files and directories, as well as can be said without asking.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Directories without an entry of their own: their owner and mode are another layer's.
    pub(crate) implicit: Vec<Vec<u8>>,
}

struct Unpacker<R> {
    archive: Archive<R>,
    tree: Tree,
    limits: Limits,
    dir_times: Vec<(Vec<u8>, (i64, u32))>,
    result: Unpacked,
}

/// Unpacks `input` into the empty directory `root`. On an error the entry's name is given too.
pub(crate) fn unpack(
    input: impl BufRead,
    root: OwnedFd,
    limits: Limits,
) -> Result<Unpacked, (UnpackError, Option<String>)> {
    let mut unpacker = Unpacker {
        archive: Archive::new(input),
        tree: Tree::new(root),
        limits,
        dir_times: Vec::new(),
        result: Unpacked {
            bytes: BLOCK,
            inodes: 1,
            implicit: Vec::new(),
        },
    };
    let mut count = 0;
    let mut last: Option<String> = None;
    loop {
        let entry = match unpacker.archive.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(e) => return Err((e.into(), last.map(|name| format!("after {name}")))),
        };
        let name = format!(
            "entry {:?}",
            String::from_utf8_lossy(&entry.path[..entry.path.len().min(300)])
        );
        count += 1;
        if count > unpacker.limits.entries {
            let max = unpacker.limits.entries;
            return Err((
                UnpackError::hostile(format!("the layer has more than {max} entries")),
                Some(name),
            ));
        }
        if let Err(e) = unpacker.entry(&entry) {
            return Err((e, Some(name)));
        }
        last = Some(name);
    }
    unpacker.archive.drain().map_err(|e| (e.into(), last))?;
    unpacker.finish().map_err(|e| (e, None))
}

impl<R: BufRead> Unpacker<R> {
    fn entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let limits = self.limits.clone();
        let parts = limits.components(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.root(entry);
        };
        match whiteout::marker(&parts)? {
            Marker::Ignored => return Ok(()),
            Marker::Opaque => {
                let dir = self.tree.parent(parents)?;
                return set_opaque(&*dir);
            }
            Marker::Gone(hidden) => {
                let parent = self.tree.parent(parents)?;
                if whiteout::hide(&parent, hidden)? {
                    self.result.inodes += 1;
                }
                return Ok(());
            }
            Marker::None => {}
        }
        let parent = self.tree.parent(parents)?;
        match entry.kind {
            EntryKind::Dir => self.dir(entry, &parent, name, parts.join(&b'/'))?,
            EntryKind::File => self.file(entry, &parent, name)?,
            EntryKind::HardLink => self.hard_link(entry, &parent, name, &parts)?,
            EntryKind::Symlink => {
                if entry.link.is_empty() || entry.link.len() >= 4096 {
                    return Err(UnpackError::hostile(
                        "a symbolic link must have a target of 1 to 4095 bytes",
                    ));
                }
                self.place(&parent, name, || symlinkat(entry.link.as_slice(), &*parent, *name))?;
                meta::apply_at(&parent, name, entry)?;
            }
            EntryKind::Char | EntryKind::Block | EntryKind::Fifo => {
                let kind = match entry.kind {
                    EntryKind::Char => FileType::CharacterDevice,
                    EntryKind::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = makedev(entry.device.0, entry.device.1);
                self.place(&parent, name, || mknodat(&*parent, *name, kind, Mode::RUSR, device))?;
                meta::apply_at(&parent, name, entry)?;
            }
        }
        if entry.kind != EntryKind::HardLink {
            self.result.inodes += 1;
        }
        Ok(())
    }

    /// An entry for the layer's root may only be a directory (CVE-2021-29136).
    fn root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != EntryKind::Dir {
            return Err(UnpackError::hostile(
                "the root of a layer can be nothing but a directory",
            ));
        }
        meta::apply(self.tree.root(), entry)?;
        self.dir_times.push((b".".to_vec(), entry.mtime));
        Ok(())
    }

    /// Makes something new at `name`, in place of what is there.
    fn place<T>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        mut make: impl FnMut() -> rustix::io::Result<T>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EXIST) => {
                let stat = lstat(parent, name)?;
                self.tree.remove(parent, name, &stat)?;
                make().map_err(UnpackError::io("create"))
            }
            other => other.map_err(UnpackError::io("create")),
        }
    }

    fn dir(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8], path: Vec<u8>) -> Result<(), UnpackError> {
        let mut hides = false;
        match mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => self.result.bytes += BLOCK,
            Err(Errno::EXIST) => {
                let stat = lstat(parent, name)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    hides = is_whiteout(&stat);
                    self.tree.remove(parent, name, &stat)?;
                    mkdirat(parent, name, Mode::RWXU).map_err(UnpackError::io("mkdir"))?;
                    self.result.bytes += BLOCK;
                }
            }
            Err(errno) => return Err(UnpackError::io("mkdir")(errno)),
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(parent, name, flags, Mode::empty()).map_err(UnpackError::io("open"))?;
        meta::apply(&dir, entry)?;
        if hides {
            set_opaque(&dir)?;
        }
        self.tree.implicit.remove(&path);
        self.dir_times.push((path, entry.mtime));
        Ok(())
    }

    fn file(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<(), UnpackError> {
        self.limits.check_space(parent, entry.size)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.place(parent, name, || openat(parent, name, flags, Mode::RUSR | Mode::WUSR))?;
        match &entry.sparse {
            None => self.archive.data(|chunk| write_all(&file, chunk, None))?,
            Some(sparse) => {
                let mut parts = sparse.map.iter().filter(|(_, length)| *length > 0).copied();
                let mut part = parts.next();
                self.archive.data(|mut chunk| {
                    // The map was proven to be as long as the data.
                    while let (Some((offset, length)), false) = (part, chunk.is_empty()) {
                        let take = chunk.len().min(usize::try_from(length).unwrap_or(usize::MAX));
                        write_all(&file, &chunk[..take], Some(offset))?;
                        chunk = &chunk[take..];
                        let taken = take as u64;
                        part = if taken == length {
                            parts.next()
                        } else {
                            Some((offset + taken, length - taken))
                        };
                    }
                    Ok::<(), UnpackError>(())
                })?;
                ftruncate(&file, sparse.real).map_err(UnpackError::io("truncate"))?;
            }
        }
        self.result.bytes += entry.size.next_multiple_of(BLOCK);
        meta::apply(&file, entry)?;
        meta::apply_time(&file, entry.mtime)
    }

    fn hard_link(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8], parts: &[&[u8]]) -> Result<(), UnpackError> {
        let limits = self.limits.clone();
        let target = limits.components(&entry.link)?;
        if target == parts {
            return Err(UnpackError::hostile("it is a hard link to itself"));
        }
        let missing = || {
            let link = String::from_utf8_lossy(&entry.link).into_owned();
            UnpackError::hostile(format!("its hard link target {link:?} is no file of this layer"))
        };
        let Some((target_name, target_parents)) = target.split_last() else {
            return Err(missing());
        };
        // Made by `tree.parent` it would exist afterwards: look without making.
        let path = if target_parents.is_empty() {
            b".".to_vec()
        } else {
            target_parents.join(&b'/')
        };
        let dir = self.tree.open_dir(&path).map_err(|_| missing())?;
        match rustix::fs::statat(&dir, *target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory && !is_whiteout(&stat) => {}
            _ => return Err(missing()),
        }
        // Without AT_SYMLINK_FOLLOW a link is linked, not what it points to.
        self.place(parent, name, || {
            linkat(&dir, *target_name, parent, name, AtFlags::empty())
        })
    }

    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        for (path, mtime) in &self.dir_times {
            // Replaced by something else since.
            if let Ok(dir) = self.tree.open_dir(path) {
                meta::apply_time(&dir, *mtime)?;
            }
        }
        let implicit = std::mem::take(&mut self.tree.implicit);
        self.result.inodes += implicit.len() as u64;
        self.result.bytes += BLOCK * implicit.len() as u64;
        self.result.implicit = implicit
            .into_iter()
            .filter(|path| self.tree.open_dir(path).is_ok())
            .collect();
        self.result.implicit.sort();
        Ok(self.result)
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut at: Option<u64>) -> Result<(), UnpackError> {
    while !bytes.is_empty() {
        let written = match at {
            None => rustix::io::write(file, bytes),
            Some(offset) => rustix::io::pwrite(file, bytes, offset),
        };
        match written {
            Ok(count) => {
                bytes = &bytes[count..];
                at = at.map(|offset| offset + count as u64);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(UnpackError::io("write")(errno)),
        }
    }
    Ok(())
}
