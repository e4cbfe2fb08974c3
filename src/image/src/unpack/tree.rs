//! The directory a layer is unpacked into, reached by descriptors only.
//!
//! Every parent is opened by `openat2` with `RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS |
//! NO_XDEV`, so that no entry can be led out of the layer by a link, whoever made it and
//! whenever (CVE-2014-6407, CVE-2025-47290). The last few parents are kept open: layers are
//! mostly in depth-first order. Whatever removes or replaces a directory empties that cache.

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, XattrFlags, fchmod, fsetxattr, mkdirat, openat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use sys::path::openat2;

use super::UnpackError;

const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const KEPT: usize = 8;
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

pub(super) struct Tree {
    root: Rc<OwnedFd>,
    open: VecDeque<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories that exist only because something below them was in the archive.
    pub(super) implicit: HashSet<Vec<u8>>,
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root: Rc::new(root),
            open: VecDeque::new(),
            implicit: HashSet::new(),
        }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the directory `parts`, making what is missing.
    pub(super) fn parent(&mut self, parts: &[&[u8]]) -> Result<Rc<OwnedFd>, UnpackError> {
        if parts.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let path = parts.join(&b'/');
        if let Some(at) = self.open.iter().position(|(known, _)| *known == path) {
            return Ok(Rc::clone(&self.open[at].1));
        }
        let fd = match self.open_dir(&path) {
            Err(Errno::NOENT | Errno::NOTDIR) => {
                self.make_parents(parts)?;
                self.open_dir(&path)
            }
            other => other,
        };
        let fd = Rc::new(fd.map_err(|e| self.explain(&path, e))?);
        if self.open.len() == KEPT {
            self.open.pop_front();
        }
        self.open.push_back((path, Rc::clone(&fd)));
        Ok(fd)
    }

    /// Opens a directory that must be there, inside and free of links.
    pub(super) fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        openat2(
            &self.root,
            path,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            INSIDE,
        )
    }

    #[expect(clippy::unused_self, reason = "reads as a question to the tree")]
    fn explain(&self, path: &[u8], errno: Errno) -> UnpackError {
        match errno {
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV => UnpackError::hostile(format!(
                "its parent {:?} is a link or a file, not a directory of this layer",
                String::from_utf8_lossy(path)
            )),
            errno => UnpackError::io("open its parent")(errno),
        }
    }

    fn make_parents(&mut self, parts: &[&[u8]]) -> Result<(), UnpackError> {
        let mut dir = Rc::clone(&self.root);
        for depth in 0..parts.len() {
            let path = parts[..=depth].join(&b'/');
            let name = parts[depth];
            let mut hides = false;
            match mkdirat(&dir, name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    let stat = lstat(&dir, name)?;
                    if !is_whiteout(&stat) {
                        dir = Rc::new(self.open_dir(&path).map_err(|e| self.explain(&path, e))?);
                        continue;
                    }
                    // A whiteout of the directory below, then new content in its place.
                    unlinkat(&dir, name, AtFlags::empty()).map_err(UnpackError::io("remove"))?;
                    mkdirat(&dir, name, Mode::RWXU).map_err(UnpackError::io("mkdir"))?;
                    hides = true;
                }
                Err(errno) => return Err(UnpackError::io("mkdir")(errno)),
            }
            let fd = self.open_dir(&path).map_err(|e| self.explain(&path, e))?;
            fchmod(&fd, Mode::from_raw_mode(0o755)).map_err(UnpackError::io("chmod"))?;
            if hides {
                set_opaque(&fd)?;
            } else {
                self.implicit.insert(path);
            }
            dir = Rc::new(fd);
        }
        Ok(())
    }

    /// Removes whatever `name` is.
    pub(super) fn remove(&mut self, parent: &OwnedFd, name: &[u8], stat: &Stat) -> Result<(), UnpackError> {
        self.open.clear();
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return remove_tree(parent.as_fd(), name).map_err(UnpackError::io("remove"));
        }
        unlinkat(parent, name, AtFlags::empty()).map_err(UnpackError::io("remove"))
    }
}

pub(super) fn lstat(dir: impl AsFd, name: &[u8]) -> Result<Stat, UnpackError> {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(UnpackError::io("stat"))
}

/// What overlayfs takes for "nothing here, and nothing below either".
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Makes a directory hide the one below it.
pub(super) fn set_opaque(dir: impl AsFd) -> Result<(), UnpackError> {
    fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty()).map_err(UnpackError::io("mark opaque"))
}

/// Nested deeper than this, a directory is first moved up beside `name`: a container may nest
/// as deep as it likes, but neither our stack nor our descriptors grow with it.
const MAX_NESTED: usize = 64;

/// Removes a directory and all in it, by descriptors, following no link (CVE-2022-21658).
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let mut moved = Vec::new();
    remove_nested(
        parent,
        name,
        &mut Moved {
            parent,
            base: name,
            names: &mut moved,
        },
        0,
    )?;
    while let Some(next) = moved.pop() {
        remove_nested(
            parent,
            &next,
            &mut Moved {
                parent,
                base: name,
                names: &mut moved,
            },
            0,
        )?;
    }
    Ok(())
}

/// Where directories that lie too deep are moved to.
struct Moved<'a> {
    parent: BorrowedFd<'a>,
    base: &'a [u8],
    names: &'a mut Vec<Vec<u8>>,
}

impl Moved<'_> {
    fn take(&mut self, dir: &OwnedFd, child: &[u8]) -> Result<(), Errno> {
        for at in 0u32.. {
            let mut name = b".gone-deep-".to_vec();
            name.extend(self.base.iter().take(64));
            name.extend(format!("-{}-{at}", self.names.len()).as_bytes());
            match renameat_with(dir, child, self.parent, &*name, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    self.names.push(name);
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EXIST)
    }
}

fn remove_nested(parent: BorrowedFd<'_>, name: &[u8], moved: &mut Moved<'_>, depth: usize) -> Result<(), Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(dir) => {
            let mut entries = rustix::fs::Dir::read_from(&dir)?;
            while let Some(entry) = entries.read() {
                let entry = entry?;
                let child = entry.file_name().to_bytes();
                if child == b"." || child == b".." {
                    continue;
                }
                let nested = |moved: &mut Moved<'_>| {
                    if depth >= MAX_NESTED {
                        moved.take(&dir, child)
                    } else {
                        remove_nested(dir.as_fd(), child, moved, depth + 1)
                    }
                };
                if entry.file_type() == FileType::Directory {
                    nested(moved)?;
                } else {
                    match unlinkat(&dir, child, AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        // d_type may be unknown, or the entry just became a directory.
                        Err(Errno::ISDIR | Errno::PERM) => nested(moved)?,
                        Err(errno) => return Err(errno),
                    }
                }
            }
        }
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlinkat(parent, name, AtFlags::empty()),
        Err(errno) => return Err(errno),
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_deeper_than_any_path_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let base = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        mkdirat(&base, "deep", Mode::RWXU).unwrap();
        let mut at = openat(&base, "deep", OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&at, "nested", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/etc", &at, "link").unwrap();
            at = openat(&at, "nested", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(base.as_fd(), b"deep").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(std::path::Path::new("/etc/passwd").exists());
    }
}
