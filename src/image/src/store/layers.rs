//! What is known of layers and snapshots, in memory, under one lock that is never held across
//! an await or a walk over a tree.
//!
//! A layer is *ready* when its directory is whole. It stays while an image, a snapshot or a
//! pull (a lease) needs it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spec::{ContainerId, Digest};

use crate::snapshot::Snapshot;

/// A layer that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Directories that the archive did not describe.
    pub(crate) implicit: Arc<[Vec<u8>]>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) ready: HashMap<Digest, Layer>,
    pub(crate) leases: HashMap<Digest, usize>,
    pub(crate) snapshots: HashMap<ContainerId, Snapshot>,
}

/// The lock around [`State`].
#[derive(Default)]
pub(crate) struct Layers(Mutex<State>);

impl Layers {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps layers from being removed while the lease lives.
    pub(crate) fn lease(self: &Arc<Self>, layers: &[Digest]) -> Lease {
        let mut state = self.lock();
        for layer in layers {
            *state.leases.entry(*layer).or_default() += 1;
        }
        Lease {
            of: Arc::clone(self),
            layers: layers.to_vec(),
        }
    }
}

impl State {
    /// Ready layers that nothing needs; `images` are the layers of all images.
    pub(crate) fn unused(&self, images: &HashSet<Digest>) -> Vec<Digest> {
        let mut used: HashSet<Digest> = images.clone();
        used.extend(self.leases.keys());
        used.extend(self.snapshots.values().flat_map(Snapshot::layers));
        self.ready
            .keys()
            .filter(|layer| !used.contains(*layer))
            .copied()
            .collect()
    }
}

/// A pull's claim on layers.
pub(crate) struct Lease {
    of: Arc<Layers>,
    layers: Vec<Digest>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        for layer in &self.layers {
            if let Some(count) = state.leases.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(layer);
                }
            }
        }
    }
}
