//! A container's root: the image's layers below, a writable layer of its own on top.
//!
//! `snapshots/<container id>/` holds `upper/`, `work/` and `chain`, a text file with the
//! DiffIDs, bottom first, and a last line `end`; `volumes/` beside them, where the image names
//! some (`volume`); `images/<number>/` for each image that is mounted as a volume (`image_volume`); `copy/`, the content
//! of the layers with other owners, where a user namespace needs it (`mapped`). The file, not the database, says what a
//! snapshot stands on: creating one costs no transaction, and it survives a lost database.
//! Written without fsync: after a power cut the container is dead anyway.

pub(crate) mod copy;
mod image_volume;
mod mapped;
pub(crate) mod overlay;
pub(crate) mod volume;

pub use image_volume::ImageVolume;
pub use mapped::Mapped;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat};
use spec::{ContainerId, Digest, ImageId, Kind};

use crate::error::{Error, sys};
use crate::store::Store;
use crate::store::catalog::Image;
use crate::store::remove::blocking;
use crate::store::usage::{Usage, now_ns};
use mapped::Top;
use overlay::Access;

/// The last id that there is (the next one is the kernel's word for none), given out by no host: an owner whom nobody is.
const NOBODY: u32 = u32::MAX - 1;

/// Which ids of the host are those of a container: the first `size`, from `uid` and `gid` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdShift {
    /// The host's user that is user 0.
    pub uid: u32,
    /// The host's group that is group 0.
    pub gid: u32,
    /// How many ids there are.
    pub size: u32,
}

impl IdShift {
    /// That of a container without a user namespace.
    pub const NONE: Self = Self {
        uid: 0,
        gid: 0,
        size: u32::MAX,
    };

    /// The host's owner for an owner of the image. An id that is not mapped becomes one that is nobody's, inside or
    /// outside: what is left of it is what an idmapped mount leaves, others' permissions and 65534 on show.
    fn apply(self, (uid, gid, mode): (u32, u32, u32)) -> Result<(u32, u32, u32), Error> {
        Ok((self.one(self.uid, uid)?, self.one(self.gid, gid)?, mode))
    }

    fn one(self, first: u32, id: u32) -> Result<u32, Error> {
        if let Some(mapped) = first.checked_add(id).filter(|_| id < self.size) {
            return Ok(mapped);
        }
        match NOBODY.checked_sub(first).is_some_and(|last| last < self.size) {
            false => Ok(NOBODY),
            true => Err(Error::new(
                Kind::InvalidArgument,
                format!(
                    "the image has something of id {id}, which the pod's user namespace does not map, and it maps \
                     {NOBODY}, which would stand for it"
                ),
            )),
        }
    }
}

/// A snapshot that is there.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// Bottom first.
    pub(crate) chain: Arc<[Digest]>,
    /// Of the images that are mounted as volumes.
    pub(crate) volumes: Vec<Arc<[Digest]>>,
    pub(crate) usage: Usage,
    pub(crate) measure_at: Instant,
    /// When it was found to use something else than before.
    pub(crate) changed_at: Instant,
}

impl Snapshot {
    /// The layers that it stands on, some more than once.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Digest> {
        self.chain
            .iter()
            .chain(self.volumes.iter().flat_map(|chain| chain.iter()))
    }

    fn new(chain: Arc<[Digest]>, volumes: Vec<Arc<[Digest]>>) -> Self {
        // An empty directory, until the first walk.
        let usage = Usage {
            used_bytes: 4096,
            inodes_used: 1,
            timestamp_ns: now_ns(),
        };
        Self {
            chain,
            volumes,
            usage,
            measure_at: Instant::now(),
            changed_at: Instant::now(),
        }
    }
}

impl Store {
    /// Makes the writable layer of a container on an image; `shift` is that of its user namespace.
    ///
    /// # Errors
    /// `NotFound` for an unknown image, `AlreadyExists` for a container that has a snapshot.
    pub async fn snapshot_create(
        self: &Arc<Self>,
        id: &ContainerId,
        image: &ImageId,
        shift: IdShift,
    ) -> Result<(), Error> {
        let (store, id, image) = (Arc::clone(self), id.clone(), image.clone());
        blocking("snapshot", move || {
            store
                .create_now(&id, &image, shift)
                .map_err(|e| e.within(format!("snapshot of {id}")))
        })
        .await
    }

    fn create_now(&self, id: &ContainerId, image: &ImageId, shift: IdShift) -> Result<(), Error> {
        let catalog = self.catalog();
        let unknown = || Error::new(Kind::NotFound, format!("image {} is not here", image.with_algorithm()));
        let image = catalog.images.get(image).ok_or_else(unknown)?;
        {
            let mut state = self.layers.lock();
            if state.snapshots.contains_key(id) {
                return Err(Error::new(Kind::AlreadyExists, "it exists"));
            }
            // Removed between our look and now: its layers may be on their way out.
            if !image.chain.iter().all(|layer| state.ready.contains_key(layer)) {
                return Err(unknown());
            }
            state
                .snapshots
                .insert(id.clone(), Snapshot::new(Arc::clone(&image.chain), Vec::new()));
        }
        let made = self.make_dirs(id, image, shift);
        if made.is_err() {
            self.layers.lock().snapshots.remove(id);
            self.janitor.delete(self.snapshot_dir(id));
        }
        made
    }

    fn make_dirs(&self, id: &ContainerId, image: &Image, shift: IdShift) -> Result<(), Error> {
        let dir = self.snapshot_dir(id);
        mkdir(&dir, 0o700)?;
        let upper = dir.join("upper");
        mkdir(&upper, 0o700)?;
        mkdir(&dir.join("work"), 0o700)?;
        self.dress(&upper, image, shift)?;
        write_chain(&dir, &image.chain)
    }

    /// Gives `top`, the uppermost directory of an overlay, what the merged root is to show of an image beside its
    /// layers' content: the owner and mode of the topmost layer, and directories whose attributes a lower layer has.
    fn dress(&self, top: &Path, image: &Image, shift: IdShift) -> Result<(), Error> {
        let like = match image.chain.last() {
            Some(layer) => {
                let path = self.layer_dir(*layer);
                let stat = rustix::fs::stat(&path).map_err(sys("stat", path.display()))?;
                (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777)
            }
            None => (0, 0, 0o755),
        };
        set(top, shift.apply(like)?)?;
        for fixup in image.fixups.iter() {
            let path = top.join(std::ffi::OsStr::new(os(&fixup.path)));
            mkdir(&path, 0o700)?;
            set(&path, shift.apply((fixup.uid, fixup.gid, fixup.mode))?)?;
        }
        Ok(())
    }

    /// The directories of layers, top first. overlayfs refuses one that is given twice (ELOOP): whatever a repeated
    /// layer holds, its upper occurrence shows already.
    pub(crate) fn lowers(&self, chain: &[Digest]) -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        let distinct = chain.iter().rev().filter(|layer| seen.insert(**layer));
        distinct.map(|layer| self.layer_dir(*layer)).collect()
    }

    /// A new detached overlay mount of the snapshot, to be attached with `move_mount` wherever
    /// the container's mount namespace wants it. With `mapped`, the container's user namespace, what the image says is
    /// id 0 is id 0 there; `label` is the SELinux context of all its files.
    ///
    /// # Errors
    /// `NotFound` for an unknown snapshot; `FailedPrecondition` for a filesystem without idmapped mounts where layers
    /// are not copied; what the kernel says otherwise.
    pub fn snapshot_mount(
        &self,
        id: &ContainerId,
        mapped: Option<Mapped<'_>>,
        label: Option<&str>,
    ) -> Result<OwnedFd, Error> {
        let chain = {
            let state = self.layers.lock();
            let snapshot = state.snapshots.get(id);
            let missing = || Error::new(Kind::NotFound, format!("container {id} has no snapshot"));
            Arc::clone(&snapshot.ok_or_else(missing)?.chain)
        };
        let top = Top {
            dir: &self.snapshot_dir(id),
            own: None,
            access: Access::Write,
        };
        self.mount_mapped(&chain, top, mapped, label)
            .map_err(|e| e.within(format!("root of container {id}")))
    }

    /// Removes a container's writable layer. One that is not there is removed already.
    ///
    /// # Errors
    /// When the directory cannot be renamed away.
    pub async fn snapshot_remove(self: &Arc<Self>, id: &ContainerId) -> Result<(), Error> {
        let (store, id) = (Arc::clone(self), id.clone());
        blocking("snapshot", move || {
            store
                .remove_dirs(&id)
                .map_err(|e| e.within(format!("snapshot of {id}")))
        })
        .await
    }

    fn remove_dirs(&self, id: &ContainerId) -> Result<(), Error> {
        let Some(layers) = self
            .layers
            .lock()
            .snapshots
            .get(id)
            .map(|s| s.layers().copied().collect())
        else {
            return Ok(());
        };
        let layers: Vec<Digest> = layers;
        let dir = self.snapshot_dir(id);
        self.set_aside(&dir)?;
        self.layers.lock().snapshots.remove(id);
        // Only where the image went before its last container.
        let images = self.catalog().layers();
        if layers.iter().any(|layer| !images.contains(layer)) {
            self.collect()
        } else {
            Ok(())
        }
    }

    /// All containers that have a snapshot.
    #[must_use]
    pub fn snapshots(&self) -> Vec<ContainerId> {
        let mut ids: Vec<ContainerId> = self.layers.lock().snapshots.keys().cloned().collect();
        ids.sort();
        ids
    }

    fn snapshot_dir(&self, id: &ContainerId) -> PathBuf {
        self.options.root.join("snapshots").join(id.as_str())
    }
}

fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

fn mkdir(path: &Path, mode: u32) -> Result<(), Error> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(mode)).map_err(sys("mkdir", path.display()))
}

/// Writes down what a directory stands on.
fn write_chain(dir: &Path, chain: &[Digest]) -> Result<(), Error> {
    let mut text = String::new();
    for digest in chain {
        writeln!(text, "{digest}").map_err(|e| Error::caused(Kind::Internal, "chain", e))?;
    }
    text.push_str("end\n");
    let path = dir.join("chain");
    std::fs::write(&path, text).map_err(|e| Error::io("write", path.display(), e))
}

fn set(path: &Path, (uid, gid, mode): (u32, u32, u32)) -> Result<(), Error> {
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    chownat(rustix::fs::CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(sys("chown", path.display()))?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(sys("open", path.display()))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(sys("chmod", path.display()))
}

/// The snapshots on disk, and what else lies beside them.
pub(crate) fn scan(dir: &Path) -> Result<(HashMap<ContainerId, Snapshot>, Vec<PathBuf>), Error> {
    let mut snapshots = HashMap::new();
    let mut broken = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io("list", dir.display(), e))? {
        let path = entry.map_err(|e| Error::io("list", dir.display(), e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        match (ContainerId::parse(name), chain(&path.join("chain"))) {
            (Ok(id), Some(chain)) => {
                snapshots.insert(id, Snapshot::new(chain, image_volume::scan(&path)));
            }
            _ => broken.push(path),
        }
    }
    Ok((snapshots, broken))
}

fn chain(path: &Path) -> Option<Arc<[Digest]>> {
    let text = std::fs::read_to_string(path).ok()?;
    let lines = text.strip_suffix("end\n")?;
    lines.lines().map(|line| line.parse().ok()).collect()
}
