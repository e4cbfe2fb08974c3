//! What pulls have moved, for whoever keeps metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Store;

/// Counters since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of layers as registries sent them.
    pub bytes: u64,
    /// Layers that were fetched.
    pub fetched: u64,
    /// Layers that a pull found here already.
    pub reused: u64,
    /// Bytes that need not be fetched because of that.
    pub skipped_bytes: u64,
    /// Pulls that found the very image here.
    pub unchanged: u64,
}

/// The counters as they are kept.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    bytes: AtomicU64,
    fetched: AtomicU64,
    reused: AtomicU64,
    skipped_bytes: AtomicU64,
    unchanged: AtomicU64,
}

impl Counts {
    /// A layer of so many bytes was fetched.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.fetched.fetch_add(1, Ordering::Relaxed);
    }

    /// A layer of so many bytes was here.
    pub(crate) fn reused(&self, bytes: u64) {
        self.skipped_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.reused.fetch_add(1, Ordering::Relaxed);
    }

    /// An image was here.
    pub(crate) fn unchanged(&self) {
        self.unchanged.fetch_add(1, Ordering::Relaxed);
    }
}

impl Store {
    /// What pulls have moved since the store was opened.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Figures {
            bytes: read(&self.counts.bytes),
            fetched: read(&self.counts.fetched),
            reused: read(&self.counts.reused),
            skipped_bytes: read(&self.counts.skipped_bytes),
            unchanged: read(&self.counts.unchanged),
        }
    }
}
