//! Removing images, and layers that nothing needs any more.
//!
//! Record first, then the directory: after a crash in between the next start deletes the
//! directory. On a full disk even the record's deletion can fail; then the directories go
//! first, which a start after a crash repairs as well (the image is dropped).

use std::sync::Arc;

use spec::{ContainerId, Digest, Kind};

use crate::error::{Error, sys};
use crate::store::Store;
use crate::store::janitor::delete_now;

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
        let after = self.catalog().layers_without(&image.id);
        let unused = {
            let mut state = self.layers.lock();
            let unused = state.unused(&after);
            // From here on no snapshot and no pull can take them.
            unused
                .into_iter()
                .filter_map(|digest| state.ready.remove_entry(&digest))
                .collect::<Vec<_>>()
        };
        let digests: Vec<Digest> = unused.iter().map(|(digest, _)| *digest).collect();
        let mut deleted = db.delete(std::slice::from_ref(&image.id), &digests);
        if deleted.as_ref().is_err_and(|e| e.kind() == Kind::ResourceExhausted) {
            for digest in &digests {
                delete_now(&self.layer_dir(*digest))?;
            }
            deleted = db.delete(std::slice::from_ref(&image.id), &digests);
        }
        if let Err(error) = deleted {
            self.layers.lock().ready.extend(unused);
            return Err(error);
        }
        self.publish(&db, |catalog| catalog.remove(&image.id));
        self.discard(&digests)
    }

    /// Removes layers that no image, snapshot or pull needs.
    pub(crate) fn collect(&self) -> Result<(), Error> {
        let mut db = self.db();
        let images = self.catalog().layers();
        let unused: Vec<Digest> = {
            let mut state = self.layers.lock();
            let unused = state.unused(&images);
            for digest in &unused {
                state.ready.remove(digest);
            }
            unused
        };
        if unused.is_empty() {
            return Ok(());
        }
        db.delete(&[], &unused)?;
        self.discard(&unused)
    }

    /// Takes directories away under another name; the janitor deletes them.
    fn discard(&self, layers: &[Digest]) -> Result<(), Error> {
        for digest in layers {
            let path = self.layer_dir(*digest);
            let gone = temporary_name(&self.layers_dir())?;
            match rustix::fs::rename(&path, &gone) {
                Ok(()) => self.janitor.delete(gone),
                Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(sys("remove", path.display())(e)),
            }
        }
        Ok(())
    }
}

/// A name that the next start deletes.
pub(crate) fn temporary_name(dir: &std::path::Path) -> Result<std::path::PathBuf, Error> {
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
