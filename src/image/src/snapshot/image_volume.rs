//! Images mounted as volumes (KEP 4639): an image's content, or a directory in it, read only.
//!
//! Each is an overlay without an upper directory, or a part of one, that is attached nowhere on
//! the host: it ends with the container's mount namespace. `snapshots/<container id>/images/<number>/`
//! holds `top/`, the uppermost lower directory (see `dress`), and `chain`, which keeps the layers
//! for as long as the container's snapshot is there, also when the image itself is removed and
//! across a restart.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spec::{ContainerId, Digest, ImageId, Kind};

use super::mapped::{Mapped, Top};
use super::overlay::{self, Access};
use super::{IdShift, chain, mkdir, write_chain};
use crate::error::Error;
use crate::store::Store;

/// An image to be mounted as a volume of a container.
#[derive(Debug, Clone, Copy)]
pub struct ImageVolume<'a> {
    /// Which of the container's image volumes it is.
    pub number: usize,
    /// The image.
    pub image: &'a ImageId,
    /// A directory in the image, or empty for all of it.
    pub sub_path: &'a Path,
    /// The ids of the host that the container's are.
    pub shift: IdShift,
    /// The user namespace whose ids the content is to have, where the container has one.
    pub userns: Option<BorrowedFd<'a>>,
    /// The SELinux context of its files.
    pub label: Option<&'a str>,
}

impl Store {
    /// Mounts an image as a volume of a container that has a snapshot.
    ///
    /// # Errors
    /// `NotFound` for an unknown image or container, `InvalidArgument` for a sub-path that is not there, is no
    /// directory or leads out of the image; what the kernel says otherwise.
    pub fn image_volume(&self, id: &ContainerId, volume: ImageVolume<'_>) -> Result<OwnedFd, Error> {
        let catalog = self.catalog();
        let name = volume.image.with_algorithm();
        let unknown = || Error::new(Kind::NotFound, format!("image {name} is not here"));
        let image = catalog.images.get(volume.image).ok_or_else(unknown)?;
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
        let dir = self.image_volume_dir(id, volume.number);
        let mount = || {
            std::fs::create_dir_all(&dir).map_err(|e| Error::io("mkdir", dir.display(), e))?;
            write_chain(&dir, &image.chain)?;
            let top = dir.join("top");
            mkdir(&top, 0o700)?;
            self.dress(&top, image, volume.shift)?;
            let top = Top {
                dir: &dir,
                own: Some(top),
                access: Access::Read,
            };
            let mapped = volume.userns.map(|userns| Mapped {
                userns,
                shift: volume.shift,
            });
            let whole = self.mount_mapped(&image.chain, top, mapped, volume.label)?;
            if volume.sub_path.as_os_str().is_empty() {
                return Ok(whole);
            }
            overlay::subtree(&whole, volume.sub_path, &dir)
        };
        mount().map_err(|e: Error| e.within(format!("image {name}")))
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
