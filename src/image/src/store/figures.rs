//! What pulls have moved, for whoever keeps metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Store;

/// Upper bounds of the sizes that layers are counted by, in bytes; what is larger is counted last.
pub const LAYER_SIZES: [u64; 9] = [
    1 << 10,
    16 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
    256 << 20,
    1 << 30,
];

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
    /// Layers that were fetched, by their size: as many as [`LAYER_SIZES`], and one for all that are larger.
    pub sizes: [u64; LAYER_SIZES.len() + 1],
}

/// The counters as they are kept.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    bytes: AtomicU64,
    fetched: AtomicU64,
    reused: AtomicU64,
    skipped_bytes: AtomicU64,
    unchanged: AtomicU64,
    sizes: [AtomicU64; LAYER_SIZES.len() + 1],
}

impl Counts {
    /// A layer of so many bytes was fetched.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.fetched.fetch_add(1, Ordering::Relaxed);
        let class = LAYER_SIZES.partition_point(|most| *most < bytes);
        self.sizes[class].fetch_add(1, Ordering::Relaxed);
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
            sizes: self.counts.sizes.each_ref().map(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_counted_by_the_next_bound_above() {
        let counts = Counts::default();
        for bytes in [0, 1024, 1025, 1 << 30, (1 << 30) + 1, u64::from(u32::MAX)] {
            counts.fetched(bytes);
        }
        let sizes = counts.sizes.map(AtomicU64::into_inner);
        assert_eq!(sizes, [2, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
    }
}
