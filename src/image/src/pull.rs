//! PullImage: name → manifest → configuration → layers → commit.
//!
//! Identical requests share one run (`single_flight`), and so do identical layers of different
//! images. Dropping the future gives up this caller's interest only; when the last caller is
//! gone the run is aborted, its unfinished layers are deleted, its finished ones kept for the
//! retry that follows, until the next removal of an image or the next start.

use std::sync::Arc;

use futures_util::stream::{self, TryStreamExt as _};
use spec::{Digest, ImageId, Kind};
use tokio::sync::Semaphore;

use crate::content::{read_small, sha256};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::failpoint::failpoint;
use crate::layer;
use crate::manifest::{self, Descriptor, Document, Manifest};
use crate::reference::Reference;
use crate::registry::hosts::hosts_for;
use crate::registry::session::{Fetched, Session};
use crate::store::Store;
use crate::store::catalog::Image;
use crate::store::db::Record;
use crate::store::layers::Layer;
use crate::store::remove::blocking;
use crate::store::temp::TempDir;
use crate::store::usage::now_ns;

/// An index that names an index that names … is refused at this depth.
const MAX_INDEXES: usize = 4;
const MAX_CONFIG: u64 = 8 << 20;

/// What makes two pulls the same: the image and the right to it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct PullKey {
    reference: String,
    credentials: [u8; 32],
}

impl Store {
    /// Pulls an image, unless what the registry offers is here already.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed reference or image, `NotFound`, `Unauthenticated` and
    /// `PermissionDenied` as the registry says, `Unavailable` (with the prefix
    /// `RegistryUnavailable: `) where it does not answer, `DataLoss` where it lies,
    /// `ResourceExhausted` where the disk is full.
    pub async fn pull(self: &Arc<Self>, reference: &str, auth: Option<Credentials>) -> Result<Arc<Image>, Error> {
        let parsed = Reference::parse(reference)?;
        let key = PullKey {
            reference: parsed.to_string(),
            credentials: auth.as_ref().map_or([0; 32], Credentials::fingerprint),
        };
        let name = key.reference.clone();
        let store = Arc::clone(self);
        let (result, _) = self.pulls.run(key, move || run(store, parsed, auth)).await;
        result.map_err(|e| e.within(format!("pull {name}")))
    }
}

async fn run(store: Arc<Store>, reference: Reference, auth: Option<Credentials>) -> Result<Arc<Image>, Error> {
    let result = pull(&store, &reference, auth).await;
    if result.as_ref().is_err_and(|e| e.kind() == Kind::ResourceExhausted) {
        // A full disk: what this pull finished is of no use to anybody now.
        let own = Arc::clone(&store);
        if let Err(error) = blocking("collect", move || own.collect()).await {
            tracing::warn!(%error, "cannot remove the layers of a failed pull");
        }
    }
    result
}

async fn pull(store: &Arc<Store>, reference: &Reference, auth: Option<Credentials>) -> Result<Arc<Image>, Error> {
    let (domain, hosts_dir) = (reference.domain().to_owned(), store.options.hosts_dir.clone());
    let hosts = blocking("hosts", move || hosts_for(&domain, hosts_dir.as_deref())).await?;
    let session = Arc::new(Session::new(
        Arc::clone(&store.registry),
        reference,
        hosts,
        auth.as_ref(),
    ));

    let top = session.manifest(reference.tag(), reference.digest()).await?;
    let mut names = vec![reference.with_digest(top.digest)];
    names.extend(reference.tagged());
    if let Some(known) = unchanged(store, &top) {
        store.counts.unchanged();
        let own = Arc::clone(store);
        return blocking("name", move || own.add_names(&known, &names)).await;
    }
    let (manifest, raw) = platform_manifest(&session, top).await?;
    let config = read_config(&session, &manifest.config).await?;
    let (_, chain) = manifest::parse_config(&config, manifest.layers.len())?;
    let lease = store.layers.lease(&chain);
    failpoint("pull_image", "config")?;
    let wanted: Vec<(Descriptor, Digest)> = manifest.layers.into_iter().zip(chain.iter().copied()).collect();
    let parallel = store.options.max_parallel_layers.max(1);
    let source = Source {
        session,
        room: Arc::new(Semaphore::new(parallel)),
    };
    // As many again may wait for the disk.
    stream::iter(wanted.into_iter().map(Ok))
        .try_for_each_concurrent(2 * parallel, |(descriptor, diff_id)| {
            ensure_layer(store, &source, descriptor, diff_id)
        })
        .await?;
    let record = Record {
        id: ImageId::parse(&manifest.config.digest.to_hex())
            .map_err(|e| Error::caused(Kind::Internal, "image id", e))?,
        config: config.to_vec(),
        manifest_digest: sha256(&raw),
        manifest: raw.to_vec(),
        size: 0,
        pulled_ns: now_ns(),
        fixups: String::new(),
        chain,
    };
    let own = Arc::clone(store);
    let image = blocking("commit", move || own.commit(record, &names)).await;
    drop(lease);
    image
}

/// The image that this very index or manifest made before, if it is still here.
fn unchanged(store: &Store, top: &Fetched) -> Option<ImageId> {
    let suffix = format!("@{}", top.digest);
    let catalog = store.catalog();
    let found = catalog
        .images
        .values()
        .find(|image| image.repo_digests.iter().any(|name| name.ends_with(&suffix)));
    found.map(|image| image.id.clone())
}

/// Follows indexes to the manifest for this host.
async fn platform_manifest(session: &Session, top: Fetched) -> Result<(Manifest, bytes::Bytes), Error> {
    let mut fetched = top;
    for _ in 0..MAX_INDEXES {
        let document = manifest::parse(&fetched.bytes, fetched.content_type.as_deref())
            .map_err(|e| e.within(format!("manifest {}", fetched.digest)))?;
        match document {
            Document::Manifest(manifest) => return Ok((manifest, fetched.bytes)),
            Document::Index(entries) => {
                let chosen = manifest::choose(&entries).map_err(|e| e.within(format!("index {}", fetched.digest)))?;
                fetched = session.manifest("", Some(chosen.digest)).await?;
                if fetched.bytes.len() as u64 != chosen.size {
                    return Err(Error::new(
                        Kind::DataLoss,
                        format!(
                            "manifest {} has {} bytes, its index says {}",
                            chosen.digest,
                            fetched.bytes.len(),
                            chosen.size
                        ),
                    ));
                }
            }
        }
    }
    Err(Error::new(
        Kind::InvalidArgument,
        format!("more than {MAX_INDEXES} indexes inside one another"),
    ))
}

async fn read_config(session: &Arc<Session>, descriptor: &Descriptor) -> Result<bytes::Bytes, Error> {
    let place = || format!("configuration {}", descriptor.digest);
    let blob = session
        .blob(descriptor.digest, descriptor.size)
        .await
        .map_err(|e| e.within(place()))?;
    read_small(blob, descriptor.digest, MAX_CONFIG)
        .await
        .map_err(|e| e.within(place()))
}

/// Where a pull's layers come from, and room for those that are fetched at the same time.
#[derive(Clone)]
struct Source {
    session: Arc<Session>,
    room: Arc<Semaphore>,
}

/// Makes one layer ready, alone or together with other pulls that want it.
async fn ensure_layer(
    store: &Arc<Store>,
    source: &Source,
    descriptor: Descriptor,
    diff_id: Digest,
) -> Result<(), Error> {
    if descriptor.media_type.ends_with("+encrypted") {
        return Err(Error::new(
            Kind::Unimplemented,
            format!("layer {} is encrypted", descriptor.digest),
        ));
    }
    loop {
        if store.layers.lock().ready.contains_key(&diff_id) {
            store.counts.reused(descriptor.size);
            return Ok(());
        }
        let (own, from, blob) = (Arc::clone(store), source.clone(), descriptor.clone());
        let (result, first) = store
            .flights
            .run(diff_id, move || fetch_layer(own, from, blob, diff_id))
            .await;
        match result {
            Ok(()) if first => return Ok(()),
            Ok(()) => {
                store.counts.reused(descriptor.size);
                return Ok(());
            }
            Err(error) if first => return Err(error.within(format!("layer {}", descriptor.digest))),
            // Another pull's registry or credentials failed, not ours.
            Err(error) => tracing::debug!(layer = %diff_id, %error, "a shared download failed, starting an own"),
        }
    }
}

async fn fetch_layer(store: Arc<Store>, source: Source, descriptor: Descriptor, diff_id: Digest) -> Result<(), Error> {
    let room = source.room.acquire_owned().await;
    let room = room.map_err(|e| Error::caused(Kind::Internal, "room for a layer", e))?;
    // It may have become ready between the look and this run.
    if store.layers.lock().ready.contains_key(&diff_id) {
        return Ok(());
    }
    let blob = source.session.blob(descriptor.digest, descriptor.size).await?;
    let temp = TempDir::new(&store.layers_dir(), &store.janitor)?;
    let writeback = Arc::clone(&store.writeback);
    let fetched = layer::fetch(blob, descriptor.digest, diff_id, temp, writeback).await?;
    // Network and processors are the next layer's while the disk has this one.
    drop(room);
    let (temp, unpacked) = fetched.synced().await?;
    failpoint("pull_image", "unpacked")?;
    let ready = Layer {
        bytes: unpacked.bytes,
        inodes: unpacked.inodes,
        implicit: unpacked.implicit.into(),
    };
    let target = store.layer_dir(diff_id);
    let mut state = store.layers.lock();
    if target.exists() {
        // Not ready, so of no known content: a removal that failed half way.
        store.set_aside(&target)?;
    }
    temp.keep(&target)?;
    state.ready.insert(diff_id, ready);
    store.counts.fetched(descriptor.size);
    drop(state);
    failpoint("pull_image", "layer")
}
