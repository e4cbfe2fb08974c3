//! Layers are written to the disk while they are unpacked, not when they are whole.
//!
//! Left to itself the kernel begins to write back when a tenth of the memory is dirty: of an image of 1 GB everything was
//! still to be written when its last byte had been unpacked, and the disk, idle until then, was what a pull waited for
//! at its end. So whoever unpacks says how much it wrote, and each time that it is [`STEP`] more, one `syncfs`
//! begins in the background; not only data, for the disk's own cache takes as long to be flushed as to be filled.
//!
//! It proves nothing: each layer has its own `syncfs`, through a descriptor that is older than its first file and so
//! is told of every failure since, whoever saw it first (errseq, Linux 4.13). Which is why nobody needs to know of one here.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, sys};

/// How much may be written before the disk is made to begin with it.
const STEP: u64 = 64 << 20;

/// The write-back of one filesystem.
pub(crate) struct WriteBack {
    directory: PathBuf,
    /// Bytes since the last one began.
    waiting: AtomicU64,
    running: AtomicBool,
}

impl WriteBack {
    /// Of the filesystem that `directory` is on.
    pub(crate) fn of(directory: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            directory,
            waiting: AtomicU64::new(0),
            running: AtomicBool::new(false),
        })
    }

    /// `bytes` more were written. To be called on a thread of tokio.
    pub(crate) fn wrote(self: &Arc<Self>, bytes: u64) {
        if self.is_due(bytes) {
            let own = Arc::clone(self);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = own.sync() {
                    tracing::debug!(%error, "a layer is not written back while it is unpacked");
                }
                own.running.store(false, Ordering::Release);
            });
        }
    }

    /// Whether one is to begin: enough is waiting, and none is running, which is then the caller's to begin.
    fn is_due(&self, bytes: u64) -> bool {
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let due = waiting >= STEP && !self.running.swap(true, Ordering::Acquire);
        if due {
            self.waiting.store(0, Ordering::Relaxed);
        }
        due
    }

    fn sync(&self) -> Result<(), Error> {
        let directory = rustix::fs::open(
            &self.directory,
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(sys("open", self.directory.display()))?;
        rustix::fs::syncfs(directory).map_err(sys("sync", self.directory.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_begins_with_each_step_and_none_beside_another() {
        let back = WriteBack::of(PathBuf::new());
        assert!(!back.is_due(STEP - 1) && back.is_due(1));
        // It runs.
        assert!(!back.is_due(STEP));
        back.running.store(false, Ordering::Release);
        // What came meanwhile is enough for the next.
        assert!(back.is_due(1) && back.waiting.load(Ordering::Relaxed) == 0);
    }
}
