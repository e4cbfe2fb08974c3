//! The end of a pull: contents on disk first, then the record, then everybody sees it.

use std::collections::HashSet;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use spec::{Digest, ImageId, Kind};

use crate::error::{Error, sys};
use crate::failpoint::failpoint;
use crate::store::Store;
use crate::store::catalog::Image;
use crate::store::db::Record;
use crate::store::fixups;
use crate::store::layers::Layer;

impl Store {
    /// Records a pulled image under `names`. Blocking: syncs the disk.
    pub(crate) fn commit(&self, mut record: Record, names: &[String]) -> Result<Arc<Image>, Error> {
        let (chain, _leases) = self.carry(&record.chain)?;
        record.chain = chain;
        let layers = self.chain_layers(&record.chain)?;
        record.fixups = self.fixups(&record.chain, &layers)?;
        record.size = record.config.len() as u64 + record.manifest.len() as u64;
        let distinct: HashSet<&Digest> = record.chain.iter().collect();
        record.size += layers
            .iter()
            .filter(|(d, _)| distinct.contains(d))
            .map(|(_, layer)| layer.bytes)
            .sum::<u64>();
        let dir = self.layers_dir();
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&dir, flags, Mode::empty()).map_err(sys("open", dir.display()))?;
        rustix::fs::syncfs(&fd).map_err(sys("sync", dir.display()))?;
        failpoint("pull_image", "synced")?;

        let mut db = self.db();
        if let Some(known) = self.catalog().images.get(&record.id) {
            record.pulled_ns = known.pulled_ns;
        }
        db.put(&record, &layers, names)?;
        failpoint("pull_image", "recorded")?;
        let mut inserted = Ok(());
        self.publish(&db, |catalog| {
            inserted = catalog.insert(&record);
            catalog.name(&record.id, names, self.pinned());
        });
        inserted?;
        drop(db);
        self.image(&record.id)
    }

    /// Gives an image that is here already the names of a pull that found it unchanged.
    pub(crate) fn add_names(&self, id: &ImageId, names: &[String]) -> Result<Arc<Image>, Error> {
        let image = self.image(id)?;
        if names
            .iter()
            .all(|name| image.repo_tags.contains(name) || image.repo_digests.contains(name))
        {
            return Ok(image);
        }
        let mut db = self.db();
        db.name(id, names)?;
        self.publish(&db, |catalog| catalog.name(id, names, self.pinned()));
        drop(db);
        self.image(id)
    }

    fn image(&self, id: &ImageId) -> Result<Arc<Image>, Error> {
        let catalog = self.catalog();
        let image = catalog.images.get(id).cloned();
        image.ok_or_else(|| Error::new(Kind::Aborted, format!("image {id} was removed while it was pulled")))
    }

    /// Each distinct layer of a chain with what is known of it.
    fn chain_layers(&self, chain: &[Digest]) -> Result<Vec<(Digest, Layer)>, Error> {
        let state = self.layers.lock();
        let mut seen = HashSet::new();
        let mut layers = Vec::new();
        for digest in chain.iter().filter(|digest| seen.insert(**digest)) {
            let layer = state.ready.get(digest).cloned();
            let layer =
                layer.ok_or_else(|| Error::new(Kind::Internal, format!("layer {digest} vanished during the pull")))?;
            layers.push((*digest, layer));
        }
        Ok(layers)
    }

    fn fixups(&self, chain: &[Digest], layers: &[(Digest, Layer)]) -> Result<String, Error> {
        let found = if layers.iter().all(|(_, layer)| layer.implicit.is_empty()) {
            Vec::new()
        } else {
            let stack = self.views(chain)?;
            fixups::find(&stack)?
        };
        serde_json::to_string(&found).map_err(|e| Error::caused(Kind::Internal, "fixups", e))
    }
}
