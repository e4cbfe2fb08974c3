//! How much disk is used: layers from what was written, writable layers from walks.
//!
//! No call walks. The janitor measures each snapshot again after ten seconds, or after twenty
//! times as long as the last walk took: walking costs at most a twentieth of one CPU. One that has used the same
//! for a minute is measured each minute, as the kubelet does with volumes: where the memory of
//! what is idle is taken back, each look is a read of the disk. It wakes up for many snapshots at once, however they came, not for each.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use spec::ContainerId;

use crate::error::{Error, sys};
use crate::store::Store;
use crate::store::janitor::Round;
use crate::store::layers::Layers;

const PERIOD: Duration = Duration::from_secs(10);
/// After so long without a change it is looked for as seldom.
const IDLE: Duration = Duration::from_secs(60);
/// How often the janitor looks what is due; what will be before it is half-way to its next look is due.
const LOOK: Duration = Duration::from_secs(5);
/// After so long without a pause the rest is measured after one. A deletion has its turn at once.
const TURN: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(20);
const LAZINESS: u32 = 20;
/// Deeper trees are counted down to here: no container may make us recurse without end.
const MAX_DEPTH: usize = 512;

/// The filesystem of the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// A path on it, which the kubelet can statfs.
    pub mountpoint: PathBuf,
    /// Layers and writable layers together.
    pub used_bytes: u64,
    /// Their files and directories.
    pub inodes_used: u64,
    /// When this was true, nanoseconds since the epoch.
    pub timestamp_ns: i64,
}

/// What a writable layer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Disk blocks in bytes.
    pub used_bytes: u64,
    /// Files and directories.
    pub inodes_used: u64,
    /// When it was measured, nanoseconds since the epoch.
    pub timestamp_ns: i64,
}

impl Usage {
    fn is_same(&self, other: &Self) -> bool {
        (self.used_bytes, self.inodes_used) == (other.used_bytes, other.inodes_used)
    }
}

impl Store {
    /// What images and containers use together.
    ///
    /// # Errors
    /// None today; a filesystem that is asked for its quota could fail.
    pub fn fs_usage(&self) -> Result<FsUsage, Error> {
        let state = self.layers.lock();
        let mut total = FsUsage {
            mountpoint: self.options.root.clone(),
            used_bytes: 0,
            inodes_used: 0,
            timestamp_ns: now_ns(),
        };
        for layer in state.ready.values() {
            total.used_bytes += layer.bytes;
            total.inodes_used += layer.inodes;
        }
        for snapshot in state.snapshots.values() {
            total.used_bytes += snapshot.usage.used_bytes;
            total.inodes_used += snapshot.usage.inodes_used;
        }
        Ok(total)
    }

    /// The last measure of a container's writable layer.
    #[must_use]
    pub fn snapshot_usage(&self, id: &ContainerId) -> Option<Usage> {
        self.layers.lock().snapshots.get(id).map(|snapshot| snapshot.usage)
    }
}

pub(crate) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// The janitor's rounds: measures what is due, answers when to come again.
pub(crate) fn rounds(layers: Weak<Layers>, dir: PathBuf) -> Round {
    Box::new(move |deletion_waits| {
        let layers: Arc<Layers> = layers.upgrade()?;
        let begun = Instant::now();
        let due: Vec<ContainerId> = layers
            .lock()
            .snapshots
            .iter()
            .filter(|(_, s)| s.measure_at <= begun + LOOK / 2)
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            if deletion_waits() {
                return Some(Duration::ZERO);
            }
            if begun.elapsed() > TURN {
                return Some(PAUSE);
            }
            let start = Instant::now();
            let result = measure(&dir.join(id.as_str()));
            let took = start.elapsed();
            if let Some(snapshot) = layers.lock().snapshots.get_mut(&id) {
                let now = Instant::now();
                // One that cannot be walked keeps its last value and time.
                if let Ok(usage) = result {
                    if !usage.is_same(&snapshot.usage) {
                        snapshot.changed_at = now;
                    }
                    snapshot.usage = usage;
                }
                snapshot.measure_at = now + pause(now - snapshot.changed_at, took);
            }
        }
        Some(LOOK)
    })
}

/// How long one is left alone that has been the same for so long, after a walk that took so long.
fn pause(same_for: Duration, took: Duration) -> Duration {
    let period = if same_for < IDLE { PERIOD } else { IDLE };
    period.max(took * LAZINESS)
}

/// The writable layer and the anonymous volumes: both are the container's, and both go with it.
fn measure(snapshot: &Path) -> Result<Usage, Error> {
    let mut usage = walk(&snapshot.join("upper"))?;
    let volumes = snapshot.join("volumes");
    if volumes.exists() {
        let more = walk(&volumes)?;
        usage.used_bytes += more.used_bytes;
        usage.inodes_used += more.inodes_used;
    }
    Ok(usage)
}

/// Counts a tree without following links or leaving its filesystem.
pub(crate) fn walk(path: &Path) -> Result<Usage, Error> {
    let root = directory(CWD, path.as_os_str().as_encoded_bytes()).map_err(sys("open", path.display()))?;
    let stat = rustix::fs::fstat(&root).map_err(sys("stat", path.display()))?;
    let mut usage = Usage {
        used_bytes: blocks(stat.st_blocks),
        inodes_used: 1,
        timestamp_ns: now_ns(),
    };
    // Hard links count once; only those are remembered.
    let mut linked = std::collections::HashSet::new();
    let mut stack: Vec<Dir> = vec![Dir::new(root).map_err(sys("list", path.display()))?];
    while let Some(dir) = stack.last_mut() {
        let Some(Ok(entry)) = dir.read() else {
            stack.pop();
            continue;
        };
        let name = entry.file_name().to_bytes().to_vec();
        if name == b"." || name == b".." {
            continue;
        }
        let child: Result<Option<OwnedFd>, Errno> = (|| {
            let fd = dir.fd()?;
            let stat = statat(fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_dir || stat.st_nlink < 2 || linked.insert(stat.st_ino) {
                usage.inodes_used += 1;
                usage.used_bytes += blocks(stat.st_blocks);
            }
            if is_dir {
                directory(fd, &name).map(Some)
            } else {
                Ok(None)
            }
        })();
        // What vanished meanwhile does not count.
        if let Ok(Some(fd)) = child
            && stack.len() < MAX_DEPTH
            && let Ok(dir) = Dir::new(fd)
        {
            stack.push(dir);
        }
    }
    Ok(usage)
}

/// Opens a directory to list it and leave no trace: that would be a container's file changing by being measured, and an
/// inode to write, for which the next look may have to wait.
fn directory(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        // For owners, and whoever may act as one (open(2)).
        Err(Errno::PERM) => openat(dir, name, flags, Mode::empty()),
        opened => opened,
    }
}

fn blocks(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0) * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_changed_for_long_is_measured_seldom() {
        let seconds = Duration::from_secs;
        for (same_for, took, wanted) in [
            (0, 0, 10),
            (59, 0, 10),
            (60, 0, 60),
            (600, 0, 60),
            (0, 1, 20),
            (600, 5, 100),
        ] {
            assert_eq!(
                pause(seconds(same_for), seconds(took)),
                seconds(wanted),
                "{same_for} {took}"
            );
        }
    }

    #[test]
    fn what_is_measured_was_not_read() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        std::fs::create_dir(&below).unwrap();
        let old = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = rustix::fs::Timestamps {
            last_access: old,
            last_modification: old,
        };
        for path in [&below, dir.path()] {
            rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
        }
        assert_eq!(walk(dir.path()).unwrap().inodes_used, 2);
        for path in [&below, dir.path()] {
            assert_eq!(std::fs::metadata(path).unwrap().atime(), 1, "{}", path.display());
        }
    }

    #[test]
    fn hard_links_count_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![1u8; 100_000]).unwrap();
        let before = walk(dir.path()).unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        std::fs::create_dir_all(dir.path().join("x/y/z")).unwrap();
        let after = walk(dir.path()).unwrap();
        assert!(before.used_bytes >= 100_000);
        assert_eq!((before.inodes_used, after.inodes_used), (2, 6));
        assert!(after.used_bytes - before.used_bytes < 50_000);
    }
}
