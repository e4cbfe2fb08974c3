//! A thread that deletes what is no longer wanted and measures writable layers, so that no
//! call ever waits for a walk over a tree (`security.md` R51, `design.md` section 7).
//!
//! It ends when the store and every unfinished layer are dropped. What it had not deleted by
//! then has a name that the next start deletes.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Error, sys};
use crate::unpack::tree::remove_tree;

/// The thread's mailbox.
pub(crate) struct Janitor {
    to: Mutex<Sender<PathBuf>>,
    pending: std::sync::Arc<Pending>,
}

#[derive(Default)]
struct Pending {
    count: Mutex<usize>,
    idle: Condvar,
}

/// Something to do now and then: answers when it wants to be called again. It is told how to ask whether a deletion waits.
pub(crate) type Round = Box<dyn FnMut(&dyn Fn() -> bool) -> Option<Duration> + Send>;

impl Janitor {
    /// Starts the thread. `round` is called between deletions until it answers nothing.
    pub(crate) fn start(round: Round) -> Result<Self, Error> {
        let (to, from) = channel();
        let pending = std::sync::Arc::<Pending>::default();
        let own = std::sync::Arc::clone(&pending);
        std::thread::Builder::new()
            .name("image-janitor".into())
            .spawn(move || work(&from, &own, round))
            .map_err(|e| Error::io("start", "the janitor thread", e))?;
        Ok(Self {
            to: Mutex::new(to),
            pending,
        })
    }

    /// Deletes a tree, some time soon.
    pub(crate) fn delete(&self, path: PathBuf) {
        *self.pending.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let sent = self.to.lock().unwrap_or_else(PoisonError::into_inner).send(path);
        if sent.is_err() {
            self.pending.finish();
        }
    }

    /// Waits until all that was asked for is deleted, at most `limit`.
    pub(crate) fn settle(&self, limit: Duration) {
        let count = self.pending.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.pending.idle.wait_timeout_while(count, limit, |count| *count > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Pending {
    fn any(&self) -> bool {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) > 0
    }

    fn finish(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.idle.notify_all();
    }
}

fn work(from: &Receiver<PathBuf>, pending: &Pending, mut round: Round) {
    let mut next = Some(Instant::now());
    loop {
        let received = match next {
            Some(next) => from.recv_timeout(next.saturating_duration_since(Instant::now())),
            // The store is gone, but a cancelled pull may still hand over what it began.
            None => from.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(path) => {
                if let Err(error) = delete_now(&path) {
                    tracing::warn!(path = %path.display(), %error, "cannot delete; the next start tries again");
                }
                pending.finish();
            }
            Err(RecvTimeoutError::Timeout) => next = round(&|| pending.any()).map(|wait| Instant::now() + wait),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Deletes a tree at once.
fn delete_now(path: &Path) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, parent, flags, Mode::empty()).map_err(sys("open", parent.display()))?;
    remove_tree(dir.as_fd(), name.as_encoded_bytes()).map_err(sys("delete", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_does_not_wait_for_the_end_of_a_round() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tree");
        std::fs::create_dir(&path).unwrap();
        let (begun, has_begun) = channel();
        let round: Round = Box::new(move |waits| {
            begun.send(()).unwrap();
            // A long one, that looks up now and then.
            let end = Instant::now() + Duration::from_secs(20);
            while !waits() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            (Instant::now() < end).then_some(Duration::from_secs(60))
        });
        let janitor = Janitor::start(round).unwrap();
        has_begun.recv().unwrap();
        janitor.delete(path.clone());
        janitor.settle(Duration::from_secs(10));
        assert!(!path.exists());
    }
}
