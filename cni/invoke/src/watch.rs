//! Looks at the configuration directory again whenever it changes.
//!
//! inotify on the directory, or on the nearest parent that exists while it does not; and now and
//! then without any event, for what inotify cannot see (a link's target, a network file system, a
//! mount on top). The task ends with the `Cni` it serves.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::Cni;

/// Where inotify tells of changes: each look without one wakes several threads of an idle node.
const LOOK: Duration = Duration::from_secs(30);
/// Where it does not.
const POLL: Duration = Duration::from_secs(5);
/// Files are often written in several steps; one look after the last of them is enough.
const SETTLE: Duration = Duration::from_millis(10);

struct Watch {
    fd: AsyncFd<OwnedFd>,
    /// What is watched: path, device and inode, because a path may come to mean another folder.
    on: Option<(PathBuf, u64, u64, i32)>,
}

impl Watch {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for types that may close their descriptor; OwnedFd does not"
    )]
    fn new() -> Option<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        Some(Self {
            fd: AsyncFd::new(fd).ok()?,
            on: None,
        })
    }

    /// Watches `dir` or its nearest parent; true when that is another folder than before.
    fn aim(&mut self, dir: &Path) -> bool {
        for path in dir.ancestors() {
            let Ok(stat) = rustix::fs::stat(path) else { continue };
            let (device, inode) = (stat.st_dev, stat.st_ino);
            if self
                .on
                .as_ref()
                .is_some_and(|on| (on.1, on.2) == (device, inode) && on.0 == path)
            {
                return false;
            }
            if let Some((_, _, _, old)) = self.on.take() {
                // It may be gone already, with its folder.
                inotify::remove_watch(self.fd.get_ref(), old).unwrap_or_default();
            }
            let flags = WatchFlags::CREATE
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVE
                | WatchFlags::DELETE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF
                | WatchFlags::ATTRIB
                | WatchFlags::ONLYDIR;
            if let Ok(id) = inotify::add_watch(self.fd.get_ref(), path, flags) {
                self.on = Some((path.to_owned(), device, inode, id));
                return true;
            }
        }
        false
    }

    /// Waits for an event, and takes all there are.
    async fn event(&mut self) {
        let Ok(mut ready) = self.fd.readable_mut().await else {
            return tokio::time::sleep(POLL).await;
        };
        let mut buf = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(ready.get_inner(), &mut buf);
        while let Ok(_) | Err(Errno::INTR) = reader.next() {}
        ready.clear_ready();
    }
}

pub(crate) fn start(cni: &Arc<Cni>) {
    let weak = Arc::downgrade(cni);
    let dir = cni.options.conf_dir.clone();
    tokio::spawn(run(weak, dir));
}

async fn run(cni: Weak<Cni>, dir: PathBuf) {
    let mut watch = Watch::new();
    loop {
        let moved = watch.as_mut().is_some_and(|watch| watch.aim(&dir));
        // What happened before the watch was set makes no event: look once without one.
        if !moved {
            match &mut watch {
                Some(watch) => {
                    // Nothing in time is as good a reason to look as an event.
                    if tokio::time::timeout(LOOK, watch.event()).await.is_ok() {
                        tokio::time::sleep(SETTLE).await;
                    }
                }
                None => tokio::time::sleep(POLL).await,
            }
        }
        let Some(cni) = cni.upgrade() else { return };
        // Files on a dead disk or server must not hold up this thread.
        if tokio::task::spawn_blocking(move || cni.reload()).await.is_err() {
            return;
        }
    }
}
