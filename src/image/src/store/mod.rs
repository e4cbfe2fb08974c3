//! The image store: what is there, and who may take it away.
//!
//! ```text
//! <root>/bulkhead.db          tables image_*: images, names, layers, chains
//! <root>/image.lock           held while a store is open
//! <root>/layers/<hex>/        one directory for each DiffID, independent of its parents
//! <root>/snapshots/<id>/      upper/ work/ chain volumes/ images/   (see `snapshot`)
//! <root>/layers/.tmp-*        in the making;  `.gone-*` on the way out
//! ```
//! The database is the truth about images, the directories about layers and snapshots; `check`
//! compares the two at every start. Readers get an immutable catalog; writers hold the
//! database's lock and replace it. Order of locks: database, then layers.

pub(crate) mod carry;
pub(crate) mod catalog;
pub(crate) mod check;
pub(crate) mod commit;
pub(crate) mod db;
pub(crate) mod figures;
pub(crate) mod fixups;
pub(crate) mod janitor;
pub(crate) mod layers;
pub(crate) mod remove;
pub(crate) mod temp;
pub(crate) mod usage;
pub(crate) mod writeback;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use spec::{Digest, Kind};

use crate::error::{Error, sys};
use crate::reference::Reference;
use crate::registry::client::Timeouts;
use crate::registry::dial::Clients;
use crate::registry::session::Shared;
use crate::registry::token::TokenCache;
use crate::single_flight::SingleFlight;
use catalog::{Catalog, Image};
use db::Db;
use janitor::Janitor;
use layers::Layers;
use writeback::WriteBack;

pub use figures::{Figures, LAYER_SIZES};
pub use usage::{FsUsage, Usage};

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the database, the layers and the snapshots.
    pub root: PathBuf,
    /// Directory of `<host>/hosts.toml` files.
    pub hosts_dir: Option<PathBuf>,
    /// Layers of one pull that are fetched at the same time.
    pub max_parallel_layers: usize,
    /// Time without progress after which a download is given up; zero means never.
    pub progress_timeout: Duration,
    /// Time within which a registry must begin to answer.
    pub answer_timeout: Duration,
    /// Images that must not be collected as garbage, as references.
    pub pinned: Vec<String>,
    /// Layers on a filesystem without idmapped mounts are copied for a container in a user namespace.
    pub copy_for_userns: bool,
}

impl Options {
    /// The defaults of the configuration, below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            hosts_dir: None,
            max_parallel_layers: 3,
            progress_timeout: Duration::from_secs(300),
            answer_timeout: Duration::from_secs(60),
            pinned: Vec::new(),
            copy_for_userns: true,
        }
    }
}

/// Images, layers and snapshots below one directory.
pub struct Store {
    pub(crate) options: Options,
    pub(crate) registry: Arc<Shared>,
    pub(crate) pulls: SingleFlight<crate::pull::PullKey, Arc<Image>>,
    pub(crate) flights: SingleFlight<Digest, ()>,
    pub(crate) layers: Arc<Layers>,
    pub(crate) janitor: Arc<Janitor>,
    pub(crate) counts: figures::Counts,
    pub(crate) writeback: Arc<WriteBack>,
    catalog: RwLock<Arc<Catalog>>,
    db: Mutex<Db>,
    pinned: HashSet<String>,
    _lock: OwnedFd,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("root", &self.options.root)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store below `options.root`, making it if need be, and removes what an earlier
    /// life left half done.
    ///
    /// # Errors
    /// When the directory cannot be used, or another store has it open.
    pub fn open(options: Options) -> Result<Arc<Self>, Error> {
        let root = &options.root;
        for (dir, mode) in [
            (root.clone(), 0o711),
            (root.join("layers"), 0o700),
            (root.join("snapshots"), 0o700),
        ] {
            make_dir(&dir, mode)?;
        }
        let lock = lock(&root.join("image.lock"))?;
        let pinned = options
            .pinned
            .iter()
            .map(|text| Reference::parse(text).map(|reference| reference.to_string()))
            .collect::<Result<HashSet<_>, _>>()
            .map_err(|e| e.within("pinned"))?;
        let (mut db, contents) = Db::open(&root.join("bulkhead.db")).map_err(|e| e.within(root.display()))?;
        let layers = Arc::new(Layers::default());
        let janitor = Arc::new(Janitor::start(usage::rounds(
            Arc::downgrade(&layers),
            root.join("snapshots"),
        ))?);
        let catalog = check::compare(root, &mut db, contents, (&layers, &janitor), &pinned)?;
        let timeouts = Timeouts {
            answer: options.answer_timeout,
            progress: options.progress_timeout,
        };
        Ok(Arc::new(Self {
            registry: Arc::new(Shared {
                clients: Clients::new(),
                tokens: TokenCache::default(),
                timeouts,
            }),
            pulls: SingleFlight::default(),
            flights: SingleFlight::default(),
            layers,
            janitor,
            counts: figures::Counts::default(),
            writeback: WriteBack::of(root.join("layers")),
            catalog: RwLock::new(Arc::new(catalog)),
            db: Mutex::new(db),
            pinned,
            _lock: lock,
            options,
        }))
    }

    /// The image that a name, a digest reference, an id or the beginning of an id stands for.
    ///
    /// # Errors
    /// When the text can be none of these, or begins several ids.
    pub fn resolve(&self, name_or_id: &str) -> Result<Option<Arc<Image>>, Error> {
        self.catalog().resolve(name_or_id)
    }

    /// All images, in the order of their ids.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.catalog().images.values().cloned().collect()
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn db(&self) -> MutexGuard<'_, Db> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the catalog; the caller holds the database's lock.
    pub(crate) fn publish(&self, _writer: &MutexGuard<'_, Db>, change: impl FnOnce(&mut Catalog)) {
        let mut next = Catalog::clone(&self.catalog());
        change(&mut next);
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    pub(crate) fn pinned(&self) -> &HashSet<String> {
        &self.pinned
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.options.root.join("layers")
    }

    pub(crate) fn layer_dir(&self, layer: Digest) -> PathBuf {
        self.layers_dir().join(layer.to_hex())
    }

    /// Waits until what was removed is off the disk, at most `limit`. For tests and for an
    /// orderly stop.
    pub fn settle(&self, limit: Duration) {
        self.janitor.settle(limit);
    }
}

fn make_dir(dir: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|e| Error::io("mkdir", dir.display(), e))
}

/// How long a lock may outlive its owner: flock(2) is shared with a child that was forked but has not executed its
/// program yet, so a daemon that is killed while it starts a plugin leaves the lock behind for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// One store a directory: two would take each other's temporaries for leftovers.
fn lock(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(sys("open", path.display()))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::new(
                    Kind::FailedPrecondition,
                    format!("{} is locked: another bulkhead uses this root", path.display()),
                ));
            }
            Err(e) => return Err(sys("lock", path.display())(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_outlives_its_owner_for_a_moment_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.lock");
        let first = lock(&path).unwrap();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(first);
        });
        let second = lock(&path).unwrap();
        holder.join().unwrap();
        assert_eq!(lock(&path).unwrap_err().kind(), Kind::FailedPrecondition);
        drop(second);
    }
}
