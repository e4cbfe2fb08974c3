//! At every start: the database and the directories are compared, and what one has without the
//! other goes. An image that lost a layer is dropped, so that the kubelet pulls it again; a
//! directory without a record was never acknowledged (or its database was lost) and is deleted,
//! unless a snapshot stands on it: containers outlive daemons and databases.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use spec::{Digest, ImageId};

use crate::error::Error;
use crate::snapshot;
use crate::store::catalog::Catalog;
use crate::store::db::{Contents, Db};
use crate::store::janitor::Janitor;
use crate::store::layers::{Layer, Layers};
use crate::store::usage;

/// Fills `layers`, cleans up, and answers the catalog of what is whole.
pub(super) fn compare(
    root: &Path,
    db: &mut Db,
    contents: Contents,
    (layers, janitor): (&Arc<Layers>, &Arc<Janitor>),
    pinned: &HashSet<String>,
) -> Result<Catalog, Error> {
    let mut state = layers.lock();
    let (snapshots, broken) = snapshot::scan(&root.join("snapshots"))?;
    broken.into_iter().for_each(|path| janitor.delete(path));
    state.snapshots = snapshots;

    let dir = root.join("layers");
    let mut on_disk: HashSet<Digest> = HashSet::new();
    for entry in std::fs::read_dir(&dir).map_err(|e| Error::io("list", dir.display(), e))? {
        let entry = entry.map_err(|e| Error::io("list", dir.display(), e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match format!("sha256:{name}").parse() {
            Ok(digest) if entry.file_type().is_ok_and(|t| t.is_dir()) => {
                on_disk.insert(digest);
            }
            _ => janitor.delete(entry.path()),
        }
    }

    let recorded: HashMap<Digest, Layer> = contents.layers.into_iter().collect();
    let gone: Vec<Digest> = recorded
        .keys()
        .filter(|layer| !on_disk.contains(*layer))
        .copied()
        .collect();
    let mut catalog = Catalog::default();
    let mut dropped: Vec<ImageId> = Vec::new();
    for image in &contents.images {
        let whole = image
            .chain
            .iter()
            .all(|layer| on_disk.contains(layer) && recorded.contains_key(layer));
        let taken = if whole { catalog.insert(image) } else { Ok(()) };
        if !whole || taken.is_err() {
            tracing::warn!(image = %image.id, error = ?taken.err(), "an image is not whole: dropped, to be pulled again");
            dropped.push(image.id.clone());
        }
    }
    for (name, id) in contents.names {
        if catalog.images.contains_key(&id) {
            catalog.name(&id, &[name], pinned);
        }
    }
    let mut wanted = catalog.layers();
    wanted.extend(state.snapshots.values().flat_map(|s| s.layers().copied()));
    let mut unrecorded = gone;
    for digest in on_disk {
        let path = dir.join(digest.to_hex());
        match recorded.get(&digest) {
            Some(layer) if wanted.contains(&digest) => {
                state.ready.insert(digest, layer.clone());
            }
            None if wanted.contains(&digest) => {
                // The name was given only after every byte was verified. What its archive did
                // not describe is not known any more; its usage is measured.
                let usage = usage::walk(&path)?;
                let layer = Layer {
                    bytes: usage.used_bytes,
                    inodes: usage.inodes_used,
                    implicit: Arc::from([]),
                };
                state.ready.insert(digest, layer);
            }
            known => {
                if known.is_some() {
                    unrecorded.push(digest);
                }
                janitor.delete(path);
            }
        }
    }
    if !dropped.is_empty() || !unrecorded.is_empty() {
        db.delete(&dropped, &unrecorded)?;
    }
    Ok(catalog)
}
