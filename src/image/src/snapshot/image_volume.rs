//! Images mounted as volumes (KEP 4639): an image's content, or a directory in it, read only.
//!
//! Each is an overlay without an upper directory, or a part of one, that is attached nowhere on
//! the host: it ends with the container's mount namespace. `snapshots/<container id>/images/<number>/`
//! holds `top/`, the uppermost lower directory (see `dress`), and `chain`, which keeps the layers
//! for as long as the container's snapshot is there, also when the image itself is removed and
//! across a restart.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spec::{ContainerId, Digest, ImageId, Kind};

use super::overlay::{self, Access};
use super::{chain, mkdir, write_chain};
use crate::error::Error;
use crate::store::Store;

impl Store {
    /// Mounts an image as volume `number` of a container that has a snapshot; `sub_path` is a directory in the
    /// image, or empty for all of it.
    ///
    /// # Errors
    /// `NotFound` for an unknown image or container, `InvalidArgument` for a sub-path that is not there, is no
    /// directory or leads out of the image; what the kernel says otherwise.
    pub fn image_volume(
        &self,
        id: &ContainerId,
        number: usize,
        image: &ImageId,
        sub_path: &Path,
    ) -> Result<OwnedFd, Error> {
        let catalog = self.catalog();
        let unknown = || Error::new(Kind::NotFound, format!("image {} is not here", image.with_algorithm()));
        let image = catalog.images.get(image).ok_or_else(unknown)?;
        {
            let mut state = self.layers.lock();
            // Removed between our look and now: its layers may be on their way out.
            if !image.chain.iter().all(|layer| state.ready.contains_key(layer)) {
                return Err(unknown());
            }
            let missing = || Error::new(Kind::NotFound, format!("container {id} has no snapshot"));
            let snapshot = state.snapshots.get_mut(id).ok_or_else(missing)?;
            snapshot.volumes.push(Arc::clone(&image.chain));
        }
        let dir = self.image_volume_dir(id, number);
        let mount = || {
            std::fs::create_dir_all(&dir).map_err(|e| Error::io("mkdir", dir.display(), e))?;
            write_chain(&dir, &image.chain)?;
            let top = dir.join("top");
            mkdir(&top, 0o700)?;
            self.dress(&top, image)?;
            let mut lowers = vec![top];
            lowers.extend(self.lowers(&image.chain));
            let whole = overlay::mount(&lowers, &dir, Access::Read)?;
            if sub_path.as_os_str().is_empty() {
                return Ok(whole);
            }
            overlay::subtree(&whole, sub_path, &dir)
        };
        mount().map_err(|e: Error| e.within(format!("image {}", image.id.with_algorithm())))
    }

    /// Where what belongs to an image volume lies.
    #[must_use]
    pub fn image_volume_dir(&self, id: &ContainerId, number: usize) -> PathBuf {
        self.snapshot_dir(id).join("images").join(number.to_string())
    }
}

/// What the image volumes of a snapshot stand on. One without a readable chain was never mounted.
pub(super) fn scan(snapshot: &Path) -> Vec<Arc<[Digest]>> {
    let Ok(entries) = std::fs::read_dir(snapshot.join("images")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| chain(&entry.path().join("chain")))
        .collect()
}
