//! Layers that put files below what is a symbolic link in a layer under them.
//!
//! With `bin -> usr/bin` below and a layer that holds only `bin/x`, whoever unpacks one layer on
//! top of the other, each path resolved inside the root (containerd), gets `usr/bin/x`. Unpacked
//! alone the layer has a directory `bin`, which would hide the link and all behind it. So a pull
//! makes one more layer, right above that one: it has the link again, and at its end a copy of
//! what lay below the directory. Its name is a digest of the stack that it is right for.
//!
//! A directory that the layer describes itself replaces the link, as in containerd. Links are
//! resolved by the kernel inside a read-only mount of the layers below (openat2
//! RESOLVE_IN_ROOT), so none leads out of them.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fchmod, fchown, statat, symlinkat};
use spec::{Digest, Kind};
use sys::path::openat2;

use crate::content::sha256;
use crate::error::{Error, sys};
use crate::snapshot::overlay::{self, Access};
use crate::snapshot::{IdShift, copy::copy};
use crate::store::Store;
use crate::store::fixups::{Found, View, look};
use crate::store::layers::{Layer, Lease};
use crate::store::temp::TempDir;
use crate::store::usage;

const DIR: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Store {
    /// The chain with the layers that it takes to make it right, and a claim on those.
    pub(crate) fn carry(&self, chain: &[Digest]) -> Result<(Vec<Digest>, Vec<Lease>), Error> {
        let (mut whole, mut leases): (Vec<Digest>, _) = (Vec::with_capacity(chain.len()), Vec::new());
        for digest in chain {
            let layer = self.layers.lock().ready.get(digest).cloned();
            // A layer that vanished is found by the commit.
            let implicit = layer.map(|l| l.implicit).unwrap_or_default();
            let below = self.views(&whole)?;
            let links = links(&below, &implicit)?;
            whole.push(*digest);
            if !links.is_empty() {
                let (carried, lease) = self.carried(&whole, &below, (&implicit, &links))?;
                whole.push(carried);
                leases.push(lease);
            }
        }
        Ok((whole, leases))
    }

    /// To look into layers, the top first.
    pub(crate) fn views(&self, chain: &[Digest]) -> Result<Vec<View>, Error> {
        let view = |digest: &Digest| {
            let path = self.layer_dir(*digest);
            let dir = rustix::fs::open(&path, DIR, Mode::empty()).map_err(sys("open", path.display()))?;
            let layer = self.layers.lock().ready.get(digest).cloned();
            let implicit = layer.map(|l| l.implicit).unwrap_or_default();
            let digest = *digest;
            Ok(View { digest, implicit, dir })
        };
        chain.iter().rev().map(view).collect()
    }

    /// The layer that goes above the last one of `chain`; `below` are those under that one.
    fn carried(
        &self,
        chain: &[Digest],
        below: &[View],
        (implicit, links): (&[Vec<u8>], &[Vec<u8>]),
    ) -> Result<(Digest, Lease), Error> {
        let names: Vec<String> = chain.iter().map(ToString::to_string).collect();
        let digest = sha256(format!("carried above\n{}", names.join("\n")).as_bytes());
        let lease = self.layers.lease(&[digest]);
        // One at a time: two pulls may want the same.
        let _turn = self.db();
        if self.layers.lock().ready.contains_key(&digest) {
            return Ok((digest, lease));
        }
        let (Some(of), under) = (chain.last(), chain.split_last().map_or(&[][..], |(_, under)| under)) else {
            return Err(Error::new(Kind::Internal, "an empty chain carries nothing"));
        };
        let temp = TempDir::new(&self.layers_dir(), &self.janitor)?;
        let mounting = TempDir::new(&self.layers_dir(), &self.janitor)?;
        let lowers = self.lowers(under);
        let mut work = Work {
            from: rustix::fs::open(self.layer_dir(*of), DIR, Mode::empty()).map_err(sys("open layer", of))?,
            root: overlay::mount(&lowers, mounting.path(), Access::Read, None, None)?,
            to: temp.open()?,
            made: Vec::new(),
        };
        for link in links {
            let carried = work.carry(link, below, implicit);
            carried.map_err(|e| e.within(format!("{:?} of layer {of}", String::from_utf8_lossy(link))))?;
        }
        work.like_the_layer()?;
        work.made.sort();
        work.made.dedup();
        let made = std::mem::take(&mut work.made);
        drop(work);
        let usage = usage::walk(temp.path())?;
        temp.keep(&self.layer_dir(digest))?;
        let layer = Layer {
            bytes: usage.used_bytes,
            inodes: usage.inodes_used,
            implicit: Arc::from(made),
        };
        self.layers.lock().ready.insert(digest, layer);
        Ok((digest, lease))
    }
}

/// Those of the directories that a layer does not describe where the stack below has a link.
fn links(below: &[View], implicit: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Error> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    for path in implicit {
        for end in (0..=path.len()).filter(|at| *at == path.len() || path[*at] == b'/') {
            let part = &path[..end];
            if !is_link(below, part)? {
                continue;
            }
            // A directory that the layer describes replaces the link.
            let described = implicit.binary_search_by(|known| known.as_slice().cmp(part)).is_err();
            if !described && !found.iter().any(|known| known == part) {
                found.push(part.to_vec());
            }
            break;
        }
    }
    Ok(found)
}

/// The stack shows a link at `path`, whose parents are directories.
fn is_link(stack: &[View], path: &[u8]) -> Result<bool, Error> {
    for view in stack {
        match look(view, path)? {
            Found::Nothing => {}
            Found::Link => return Ok(true),
            Found::Hidden | Found::Dir { .. } => return Ok(false),
        }
    }
    Ok(false)
}

struct Work {
    /// The layer whose content is in the wrong place.
    from: OwnedFd,
    /// What is below it, merged.
    root: OwnedFd,
    /// The new layer.
    to: OwnedFd,
    /// Directories that the new layer has and does not mean.
    made: Vec<Vec<u8>>,
}

impl Work {
    fn carry(&mut self, link: &[u8], below: &[View], implicit: &[Vec<u8>]) -> Result<(), Error> {
        let target = self.resolve(link)?;
        // What lies below may meet a link again, at the place it goes to.
        for path in implicit
            .iter()
            .filter(|path| path.len() > link.len() && path.starts_with(link))
        {
            let inner = [target.as_os_str().as_bytes(), &path[link.len()..]].concat();
            if path[link.len()] == b'/' && is_link(below, &inner)? {
                let why = format!("{:?} is a symbolic link too", String::from_utf8_lossy(&inner));
                return Err(Error::new(Kind::Unimplemented, why));
            }
        }
        let name = Path::new(std::ffi::OsStr::from_bytes(link));
        self.link(name)?;
        let to = self.directory(&target)?;
        let from = openat2(&self.from, name, DIR, inside()).map_err(sys("open", name.display()))?;
        copy(&from, &to, IdShift::NONE).map_err(|e| e.within("copy to where the link leads"))
    }

    /// Where the link leads, relative to the root.
    fn resolve(&self, link: &[u8]) -> Result<PathBuf, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let end = openat2(&self.root, link, flags, resolve).map_err(|e| {
            let why = format!("it is a link below, and leads to no directory ({e})");
            Error::new(Kind::InvalidArgument, why)
        })?;
        // Of a mount that is attached nowhere the kernel shows paths from its own root on.
        let path = |fd: &OwnedFd| {
            let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let text = rustix::fs::readlink(name, Vec::new()).map_err(sys("read the path of", "a directory"))?;
            Ok::<_, Error>(PathBuf::from(OsString::from_vec(text.into_bytes())))
        };
        let (root, end) = (path(&self.root)?, path(&end)?);
        let below = end.strip_prefix(&root).map(Path::to_path_buf);
        below.map_err(|_| {
            Error::new(
                Kind::Internal,
                format!("{} is not below {}", end.display(), root.display()),
            )
        })
    }

    /// Makes the link as it is below.
    fn link(&mut self, name: &Path) -> Result<(), Error> {
        let text =
            rustix::fs::readlinkat(&self.root, name, Vec::new()).map_err(sys("read the link", name.display()))?;
        let stat = statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).map_err(sys("stat", name.display()))?;
        let parent = self.directory(name.parent().unwrap_or(Path::new("")))?;
        let last = name.file_name().unwrap_or_default();
        symlinkat(text, &parent, last).map_err(sys("link", name.display()))?;
        let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        chownat(&parent, last, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(sys("chown", name.display()))
    }

    /// The directory `path` of the new layer, made with those above it.
    fn directory(&mut self, path: &Path) -> Result<OwnedFd, Error> {
        let mut dir = self
            .to
            .try_clone()
            .map_err(|e| Error::io("duplicate", "a directory", e))?;
        let mut whole = PathBuf::new();
        for part in path {
            whole.push(part);
            match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.made.push(whole.as_os_str().as_bytes().to_vec()),
                Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(sys("mkdir", whole.display())(e)),
            }
            dir = openat2(&dir, part, DIR, inside()).map_err(sys("open", whole.display()))?;
        }
        Ok(dir)
    }

    /// The topmost layer's root is what a container's root looks like.
    fn like_the_layer(&self) -> Result<(), Error> {
        let stat = rustix::fs::fstat(&self.from).map_err(sys("stat", "the layer"))?;
        let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        fchown(self.to.as_fd(), Some(owner.0), Some(owner.1)).map_err(sys("chown", "the new layer"))?;
        fchmod(self.to.as_fd(), Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(sys("chmod", "the new layer"))
    }
}

fn inside() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}
