//! Layers for a user namespace: by an idmapped mount, or, on a filesystem that has none, as a copy with other owners.
//!
//! The copy belongs to one container (`snapshots/<container id>/copy`, for an image volume `images/<number>/copy`) and
//! goes with it: the kubelet gives each pod ids of its own, so two pods could not share one, and nothing has to be
//! counted or collected. It costs the size of the image and the time of writing it, once for each container.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, openat};
use spec::{Digest, Kind};

use super::copy::{self, LIST};
use super::overlay::{self, Access};
use super::{IdShift, mkdir};
use crate::error::{Error, sys};
use crate::store::Store;

/// A user namespace whose ids an image's content is to have.
#[derive(Debug, Clone, Copy)]
pub struct Mapped<'a> {
    /// The namespace.
    pub userns: BorrowedFd<'a>,
    /// Its ids.
    pub shift: IdShift,
}

/// What lies over the layers.
pub(super) struct Top<'a> {
    /// The directory of what is no layer.
    pub(super) dir: &'a Path,
    /// The uppermost lower directory, below `dir`.
    pub(super) own: Option<PathBuf>,
    pub(super) access: Access,
}

impl Store {
    /// Mounts the layers of `chain` below `top`, detached.
    pub(super) fn mount_mapped(
        &self,
        chain: &[Digest],
        top: Top<'_>,
        mapped: Option<Mapped<'_>>,
        label: Option<&str>,
    ) -> Result<std::os::fd::OwnedFd, Error> {
        let Top { dir, own, access } = top;
        let userns = mapped.map(|mapped| mapped.userns);
        let layers = self.lowers(chain);
        let lowers: Vec<PathBuf> = own.iter().chain(&layers).cloned().collect();
        let error = match overlay::mount(&lowers, dir, access, userns, label) {
            Err(error) if self.options.copy_for_userns && error.kind() == Kind::FailedPrecondition => error,
            other => return other,
        };
        let Some(mapped) = mapped.filter(|mapped| overlay::idmapped(&self.layers_dir(), mapped.userns).is_err()) else {
            return Err(error);
        };
        let copy = shifted(&layers, dir, mapped.shift).map_err(|e| e.within("copy of the layers"))?;
        // Below `dir`, and so with the ids that it needs.
        let lowers: Vec<PathBuf> = own.into_iter().chain([copy]).collect();
        overlay::mount(&lowers, dir, access, userns, label)
    }
}

/// The content of `layers` with the ids of a user namespace, in `dir`.
fn shifted(layers: &[PathBuf], dir: &Path, shift: IdShift) -> Result<PathBuf, Error> {
    let copy = dir.join("copy");
    if copy.try_exists().map_err(|e| Error::io("look at", copy.display(), e))? {
        return Ok(copy);
    }
    let half = dir.join("copy.half");
    if half.try_exists().map_err(|e| Error::io("look at", half.display(), e))? {
        std::fs::remove_dir_all(&half).map_err(|e| Error::io("remove", half.display(), e))?;
    }
    mkdir(&half, 0o700)?;
    // overlayfs says what the layers come to: which file hides which, and what was removed.
    let merged = overlay::mount(layers, dir, Access::Read, None, None)?;
    let from = openat(&merged, ".", LIST, Mode::empty()).map_err(sys("open", "the layers"))?;
    let to = openat(CWD, &half, LIST, Mode::empty()).map_err(sys("open", half.display()))?;
    copy::copy(&from, &to, shift)?;
    std::fs::rename(&half, &copy).map_err(|e| Error::io("rename", half.display(), e))?;
    Ok(copy)
}
