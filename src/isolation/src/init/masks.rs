//! Masked and read-only paths. One that does not exist needs neither.
//!
//! A file is masked by the container's own `/dev/null`, which is asked for its device number through the descriptor
//! that is then bound (CVE-2025-31133: a link in its place would have bound any file, writable). Directories share
//! one empty read-only tmpfs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use sys::mount::{self, Attr, Context, NODEV, NOEXEC, NOSUID, RDONLY};
use sys::path::{Links, Root, file_type, is_char_device};

use crate::Error;

pub(super) fn mask(root: &Root, paths: &[PathBuf]) -> Result<(), Error> {
    let mut null = None;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Some(target) = find(root, path)? else { continue };
        let object = || path.display().to_string();
        let is_dir = file_type(target.as_fd()).map_err(Error::sys("stat", object()))? == FileType::Directory;
        if !is_dir {
            if null.is_none() {
                null = Some(verified_null(root)?);
            }
            let Some(null) = &null else { continue };
            bind(null, &target).map_err(Error::sys("mask", object()))?;
        } else if let Some(empty) = &empty {
            bind(empty, &target).map_err(Error::sys("mask", object()))?;
        } else {
            let tmpfs = empty_dir().map_err(Error::sys("mount", "an empty directory"))?;
            mount::attach(tmpfs.as_fd(), target.as_fd()).map_err(Error::sys("mask", object()))?;
            empty = Some(tmpfs);
        }
    }
    Ok(())
}

pub(super) fn make_readonly(root: &Root, paths: &[PathBuf]) -> Result<(), Error> {
    for path in paths {
        let Some(target) = find(root, path)? else { continue };
        let object = || path.display().to_string();
        let tree = mount::open_tree(target.as_fd(), Path::new(""), true).map_err(Error::sys("open", object()))?;
        let readonly = Attr {
            set: RDONLY,
            ..Attr::default()
        };
        mount::set_attr(tree.as_fd(), true, readonly).map_err(Error::sys("make read-only", object()))?;
        mount::attach(tree.as_fd(), target.as_fd()).map_err(Error::sys("make read-only", object()))?;
    }
    Ok(())
}

fn find(root: &Root, path: &Path) -> Result<Option<OwnedFd>, Error> {
    match root.open_path(path, Links::Follow) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::sys("open", path.display())(error)),
    }
}

fn verified_null(root: &Root) -> Result<OwnedFd, Error> {
    let null = root
        .open_path("/dev/null", Links::Refuse)
        .map_err(Error::sys("open", "/dev/null for masks"))?;
    let stat = rustix::fs::fstat(&null).map_err(Error::sys("stat", "/dev/null"))?;
    if is_char_device(&stat, 1, 3) {
        Ok(null)
    } else {
        Err(Error::state("/dev/null", "is not the null device: refused"))
    }
}

fn bind(from: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let tree = mount::open_tree(from.as_fd(), Path::new(""), false)?;
    mount::attach(tree.as_fd(), target.as_fd())
}

fn empty_dir() -> io::Result<OwnedFd> {
    let context = Context::open("tmpfs")?;
    context.set("mode", "755")?;
    context.set("size", "0")?;
    context.set("nr_inodes", "1")?;
    context.mount(RDONLY | NOSUID | NODEV | NOEXEC)
}
