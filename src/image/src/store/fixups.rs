//! Directories that a layer has without describing them.
//!
//! A layer that brings `tmp/x` but no entry `tmp/` says nothing about `/tmp`. Unpacked on top
//! of its parents (as containerd does, one layer after the other) it would leave `/tmp` as the
//! layer below made it; unpacked alone it has a `/tmp` of root with mode 0755, and overlayfs
//! shows the uppermost. So a pull's commit looks which directories would show wrong, and a
//! snapshot's upper directory gets those few with the attributes of the layer that means them.
//!
//! Where such a directory is a symbolic link below (`bin -> usr/bin` and a layer with only
//! `bin/x`), the pull has made one more layer before (`carry`).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags, ResolveFlags, Stat, fgetxattr, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use spec::{Digest, Kind};
use sys::path::openat2;

use crate::error::{Error, sys};
use crate::unpack::tree::OPAQUE;

/// A directory to make in every upper directory, after those before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fixup {
    /// Relative; bytes, because names need not be text.
    pub(crate) path: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// One layer to look into, top first.
pub(crate) struct View {
    pub(crate) digest: Digest,
    /// Directories that its archive did not describe.
    pub(crate) implicit: Arc<[Vec<u8>]>,
    pub(crate) dir: OwnedFd,
}

/// What one layer has at a path.
pub(crate) enum Found {
    /// Neither it nor anything that hides it.
    Nothing,
    /// Something that hides what is below.
    Hidden,
    /// A link there or on the way.
    Link,
    /// A directory.
    Dir {
        /// What it is like.
        stat: Box<Stat>,
        /// It, or one on the way, hides what is below.
        opaque: bool,
    },
}

/// The directories of this stack of layers (top first) that would show wrong.
pub(crate) fn find(stack: &[View]) -> Result<Vec<Fixup>, Error> {
    let mut paths: Vec<&Vec<u8>> = stack.iter().flat_map(|view| view.implicit.iter()).collect();
    paths.sort();
    paths.dedup();
    let mut fixups: Vec<Fixup> = Vec::new();
    for path in paths {
        let (Some(shown), meant) = resolve(stack, path)? else {
            continue;
        };
        let Some(meant) = meant else { continue };
        if same(&shown, &meant) {
            continue;
        }
        for end in (0..=path.len()).filter(|at| *at == path.len() || path[*at] == b'/') {
            let prefix = &path[..end];
            if fixups.iter().any(|known| known.path == prefix) {
                continue;
            }
            // A parent in the upper directory shows too: it must be what is meant as well.
            let (shown, meant) = resolve(stack, prefix)?;
            if let Some(stat) = meant.or(shown) {
                fixups.push(Fixup {
                    path: prefix.to_vec(),
                    mode: stat.st_mode & 0o7777,
                    uid: stat.st_uid,
                    gid: stat.st_gid,
                });
            }
        }
    }
    Ok(fixups)
}

fn same(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid)
}

/// The directory that overlayfs shows at `path`, and the one that the image means.
fn resolve(stack: &[View], path: &[u8]) -> Result<(Option<Stat>, Option<Stat>), Error> {
    let mut shown: Option<Stat> = None;
    for view in stack {
        match look(view, path)? {
            Found::Nothing => {}
            Found::Hidden => return Ok((shown, None)),
            Found::Link if shown.is_some() => {
                return Err(Error::new(
                    Kind::Unimplemented,
                    format!(
                        "a layer puts files below {:?}, which is a symbolic link in layer {}: that layer cannot be stacked",
                        String::from_utf8_lossy(path),
                        view.digest
                    ),
                ));
            }
            Found::Link => return Ok((None, None)),
            Found::Dir { stat, opaque } => {
                let shown = *shown.get_or_insert(*stat);
                let implicit = view
                    .implicit
                    .binary_search_by(|known| known.as_slice().cmp(path))
                    .is_ok();
                if !implicit {
                    return Ok((Some(shown), Some(*stat)));
                }
                if opaque {
                    return Ok((Some(shown), None));
                }
            }
        }
    }
    Ok((shown, None))
}

/// What is at `path` in a layer.
pub(crate) fn look(view: &View, path: &[u8]) -> Result<Found, Error> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let mut dir = None::<OwnedFd>;
    let mut opaque = false;
    for (at, name) in parts.iter().enumerate() {
        let parent = dir.as_ref().unwrap_or(&view.dir);
        let stat = match statat(parent, *name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(if opaque { Found::Hidden } else { Found::Nothing }),
            Err(e) => return Err(sys("stat in layer", view.digest)(e)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {}
            FileType::Symlink => return Ok(Found::Link),
            _ => return Ok(Found::Hidden),
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = openat2(parent, *name, flags, inside).map_err(sys("open in layer", view.digest))?;
        let mut value = [0u8; 1];
        opaque |= fgetxattr(&next, OPAQUE, &mut value[..]).is_ok_and(|n| n == 1 && value[0] == b'y');
        if at + 1 == parts.len() {
            return Ok(Found::Dir {
                stat: Box::new(stat),
                opaque,
            });
        }
        dir = Some(next);
    }
    Ok(Found::Nothing)
}
