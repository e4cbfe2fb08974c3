//! Removing images, and layers that nothing needs any more.
//!
//! Directories first, by one rename each, under the lock by which pulls and snapshots take
//! layers: nobody can find half a layer, and on a full disk there is room for the record's
//! deletion afterwards. A crash in between leaves a record without its layer, which the next
//! start drops.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spec::{ContainerId, Digest, Kind};

use crate::error::{Error, sys};
use crate::failpoint::failpoint;
use crate::store::Store;

const FULL_DISK_PATIENCE: Duration = Duration::from_secs(10);

impl Store {
    /// Removes an image with all its names. One that is not there is removed already. Layers
    /// that a container stands on stay until its snapshot goes.
    ///
    /// # Errors
    /// When the name is malformed or ambiguous, or the disk fails.
    pub async fn remove(self: &Arc<Self>, name_or_id: &str) -> Result<(), Error> {
        let (store, name) = (Arc::clone(self), name_or_id.to_owned());
        blocking("remove image", move || store.remove_now(&name)).await
    }

    fn remove_now(&self, name: &str) -> Result<(), Error> {
        let mut db = self.db();
        // Under the lock, so that a pull that renames meanwhile cannot make us remove another.
        let Some(image) = self.catalog().resolve(name)? else {
            return Ok(());
        };
        let unused = self.discard(&self.catalog().layers_without(&image.id));
        // Whatever comes now, the image is not whole any more.
        self.publish(&db, |catalog| catalog.remove(&image.id));
        let digests = unused?;
        failpoint("remove_image", "set_aside")?;
        let mut deleted = db.delete(std::slice::from_ref(&image.id), &digests);
        if deleted.as_ref().is_err_and(|e| e.kind() == Kind::ResourceExhausted) {
            // What was just renamed makes room as soon as it is deleted.
            self.janitor.settle(FULL_DISK_PATIENCE);
            deleted = db.delete(std::slice::from_ref(&image.id), &digests);
        }
        deleted.map_err(|e| e.within(format!("forget image {}", image.id)))?;
        failpoint("remove_image", "forgotten")
    }

    /// Removes layers that no image, snapshot or pull needs.
    pub(crate) fn collect(&self) -> Result<(), Error> {
        let mut db = self.db();
        let unused = self.discard(&self.catalog().layers())?;
        if unused.is_empty() {
            Ok(())
        } else {
            db.delete(&[], &unused)
        }
    }

    /// Takes the directories of unused layers away under another name; the janitor deletes them.
    fn discard(&self, images: &HashSet<Digest>) -> Result<Vec<Digest>, Error> {
        let mut state = self.layers.lock();
        let unused = state.unused(images);
        for digest in &unused {
            self.set_aside(&self.layer_dir(*digest))?;
            state.ready.remove(digest);
        }
        Ok(unused)
    }

    /// Renames a directory to a name that the next start deletes, and has it deleted.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<(), Error> {
        let gone = temporary_name(path.parent().unwrap_or(path))?;
        match rustix::fs::rename(path, &gone) {
            Ok(()) => self.janitor.delete(gone),
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(sys("remove", path.display())(e)),
        }
        Ok(())
    }
}

/// A name that the next start deletes.
fn temporary_name(dir: &Path) -> Result<PathBuf, Error> {
    let name = ContainerId::random().map_err(|e| Error::io("random", "name", std::io::Error::other(e)))?;
    Ok(dir.join(format!(".gone-{}", name.short())))
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::caused(Kind::Internal, what, e))?
}
