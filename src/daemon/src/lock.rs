//! Locks that keep two daemons out of one directory, and the making of the directories.
//!
//! The lock is `flock` on `daemon.lock` in both `root` and `state`: the kernel drops it
//! when the process ends, however it ends, so a lock is never stale. The file's text, the
//! owner's pid, is for the message only. The descriptor is close-on-exec: a monitor must
//! not keep the lock of a daemon that is gone.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use config::Paths;
use rustix::fs::{FlockOperation, flock};

/// The locks of a daemon on its directories; dropped, they are free.
#[derive(Debug)]
pub(crate) struct Locks {
    _root: File,
    _state: File,
}

impl Locks {
    /// Makes both directories, where they are not there, and locks them.
    pub(crate) fn acquire(paths: &Paths) -> anyhow::Result<Self> {
        // Root holds image contents with set-user-id programs: nobody else may reach them.
        make_private(&paths.root, 0o700)?;
        // Passed through on the way to a pod's files, by the mapped root of a user namespace.
        make_private(&paths.state, 0o711)?;
        Ok(Self {
            _root: lock(&paths.root_lock())?,
            _state: lock(&paths.state_lock())?,
        })
    }
}

/// The pid of the daemon that holds `path`, where one does. Makes nothing.
pub(crate) fn holder(path: &Path) -> anyhow::Result<Option<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(owner(&mut file))),
        Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// How long a lock may outlive its owner: flock(2) is shared with a child that was forked but has not executed its
/// program yet, so a daemon that is killed while it starts a plugin leaves the lock behind for a moment.
const PATIENCE: Duration = Duration::from_secs(1);

fn lock(path: &PathBuf) -> anyhow::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc_nofollow())
        .open(path)
        .with_context(|| format!("open the lock {}", path.display()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let dir = path.parent().unwrap_or(path).display();
                bail!(
                    "{dir} is in use by another daemon (pid {}): give each its own --root and --state",
                    owner(&mut file)
                );
            }
            Err(error) => return Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(file)
}

fn libc_nofollow() -> i32 {
    // The bits of O_NOFOLLOW fit an i32 on every architecture.
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default()
}

fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut text));
    match read {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// Makes `dir`, or tightens it; refuses one that another user owns.
fn make_private(dir: &Path, mode: u32) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .with_context(|| format!("make the directory {}", dir.display()))?;
    let metadata = fs::metadata(dir).with_context(|| format!("look at {}", dir.display()))?;
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        bail!(
            "{} belongs to user {}, not to {us}: whoever owns it could swap what lies in it",
            dir.display(),
            metadata.uid()
        );
    }
    if metadata.mode() & 0o7777 != mode {
        fs::set_permissions(dir, Permissions::from_mode(mode))
            .with_context(|| format!("set the mode of {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &Path, state: &str) -> Paths {
        Paths {
            root: dir.join("root"),
            state: dir.join(state),
        }
    }

    #[test]
    fn a_lock_that_outlives_its_owner_for_a_moment_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = Locks::acquire(&paths(dir.path(), "a")).unwrap();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(first);
        });
        Locks::acquire(&paths(dir.path(), "a")).unwrap();
        holder.join().unwrap();
    }

    #[test]
    fn a_directory_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let first = Locks::acquire(&paths(dir.path(), "a")).unwrap();
        let error = Locks::acquire(&paths(dir.path(), "b")).unwrap_err().to_string();
        assert!(
            error.contains("in use") && error.contains(&std::process::id().to_string()),
            "{error}"
        );
        let held = holder(&paths(dir.path(), "a").state_lock()).unwrap();
        assert_eq!(held, Some(std::process::id().to_string()));
        drop(first);
        assert_eq!(holder(&paths(dir.path(), "a").state_lock()).unwrap(), None);
        Locks::acquire(&paths(dir.path(), "b")).unwrap();
    }

    #[test]
    fn directories_are_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path(), "state");
        fs::create_dir(&paths.root).unwrap();
        fs::set_permissions(&paths.root, Permissions::from_mode(0o777)).unwrap();
        let _locks = Locks::acquire(&paths).unwrap();
        assert_eq!(fs::metadata(&paths.root).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::metadata(&paths.state).unwrap().mode() & 0o7777, 0o711);
        assert_eq!(fs::metadata(paths.state_lock()).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn nobody_holds_what_is_not_there() {
        assert_eq!(holder(Path::new("/nonexistent/daemon.lock")).unwrap(), None);
    }
}
