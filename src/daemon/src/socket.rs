//! Unix sockets at paths of any length.
//!
//! A socket address holds 107 bytes of path (unix(7)); a path below a long state directory
//! is longer. So binding and connecting go through an open directory:
//! `/proc/self/fd/N/name`. The CRI socket is replaced only where nobody answers on it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{Mode, OFlags};

/// The listening socket; removed from the file system when dropped, if it is still ours.
#[derive(Debug)]
pub(crate) struct Bound {
    path: PathBuf,
    /// Device and inode of what we bound.
    id: (u64, u64),
}

impl Drop for Bound {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|id| id == self.id) {
            // What stays behind is a stale socket, which the next daemon replaces.
            fs::remove_file(&self.path).unwrap_or_default();
        }
    }
}

/// Listens at `path`, mode 0600, for this user alone.
pub(crate) fn listen(path: &Path) -> anyhow::Result<(UnixListener, Bound)> {
    let parent = path.parent().context("the socket needs a directory")?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(parent)
        .with_context(|| format!("make the directory {}", parent.display()))?;
    remove_stale(path)?;
    let listener =
        near(path, |near| UnixListener::bind(near)).with_context(|| format!("listen on {}", path.display()))?;
    // Between bind and here the umask (022) lets nobody else write, hence connect.
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("set the mode of {}", path.display()))?;
    let id = identity(path).with_context(|| format!("look at {}", path.display()))?;
    Ok((
        listener,
        Bound {
            path: path.to_owned(),
            id,
        },
    ))
}

/// Connects to `path`.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    near(path, |near| UnixStream::connect(near))
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
    };
    if !metadata.file_type().is_socket() {
        bail!("{} is there and is no socket: it is not removed", path.display());
    }
    match connect(path) {
        Ok(_) => bail!("another program listens on {}", path.display()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(error).with_context(|| format!("see whether {} is in use", path.display())),
    }
    fs::remove_file(path).with_context(|| format!("remove the stale socket {}", path.display()))
}

/// Calls `with` with a path for the same file that is short enough for an address.
fn near<T>(path: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let dir: OwnedFd = rustix::fs::open(
        parent,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    with(&PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_private_answers_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d".repeat(120)).join("bulkhead.sock");
        let (listener, bound) = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        connect(&path).unwrap();
        listener.accept().unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_socket_that_nobody_answers_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (listener, bound) = listen(&path).unwrap();
        assert!(
            listen(&path)
                .unwrap_err()
                .to_string()
                .contains("another program listens")
        );
        std::mem::forget(bound);
        drop(listener);
        let (_listener, _bound) = listen(&path).unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "mine").unwrap();
        assert!(listen(&file).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read(&file).unwrap(), b"mine");
    }

    #[test]
    fn a_socket_of_another_daemon_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_first, bound) = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (_second, _other) = listen(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }
}
