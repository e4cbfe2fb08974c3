//! The OOM killer: its counter, and a descriptor that becomes readable when it was here.
//!
//! The verdict "OOMKilled" belongs to the counter of the container's own cgroup, compared with its value at start:
//! `oom_kill`, not `oom`, because the limit of the pod raises the latter too (containerd #6323). The descriptor only
//! tells when to look. v1 counts the victims of this very cgroup, v2 those below it too.
//!
//! systemd removes the cgroup of a scope when the last process has gone, which may be before the one who waits for that
//! process has read the counter; and what has gone cannot be read, through an open descriptor neither (kernfs answers
//! ENODEV). But v2 counts each kill in all cgroups above as well, and those stay: see [`OomCounter::kills`].

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{CWD, Mode, OFlags, inotify, openat};

use crate::{Cgroup, Error, Version, file};

/// How long before its end a cgroup must have been told of, for a kill in the one above to be its own. The kernel tells of
/// the limit that was hit before it kills, and tells at most every 10 ms (`CGROUP_FILE_NOTIFY_MIN_INTV`).
const LATELY: Duration = Duration::from_secs(2);

/// Readable when the OOM killer may have been at work in the cgroup.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    told_at: Option<Instant>,
}

impl OomWatch {
    fn new(fd: OwnedFd) -> Self {
        Self { fd, told_at: None }
    }

    /// Takes the pending notifications off the descriptor.
    pub fn drain(&mut self) {
        // Larger than one eventfd count (8) and one inotify event with its name (16 + 256).
        let mut buffer = [0u8; 1024];
        while matches!(rustix::io::read(&self.fd, &mut buffer), Ok(count) if count > 0) {
            self.told_at = Some(Instant::now());
        }
    }

    /// Whether something was told just now or a moment ago.
    pub fn was_told_lately(&mut self) -> bool {
        self.drain();
        self.told_at.is_some_and(|at| at.elapsed() < LATELY)
    }
}

/// The counter of OOM kills of a cgroup, for somebody who wants to know it after the cgroup has gone.
#[derive(Debug)]
pub struct OomCounter {
    own: PathBuf,
    /// v2: that of the cgroup above, which counts ours too.
    above: Option<PathBuf>,
    /// As they were when both were read last.
    seen: u64,
    seen_above: u64,
}

impl OomCounter {
    fn new(own: PathBuf, above: Option<PathBuf>) -> Self {
        let mut counter = Self {
            own,
            above,
            seen: 0,
            seen_above: 0,
        };
        // Only a counter that can be read says anything here.
        counter.kills(|| false);
        counter
    }

    /// Somebody is about to kill what is in the cgroup, so that its death needs no other cause: from now on only its own
    /// counter counts, and a neighbour's kill in the cgroup above cannot be taken for one of its own.
    pub fn settle(&mut self) {
        self.above = None;
    }

    /// Kills so far. Where the cgroup has gone: those that were seen, and what was added to the cgroup above since, if
    /// `was_told` (its watch has spoken lately, so that a kill may be its own and no neighbour's).
    pub fn kills(&mut self, was_told: impl FnOnce() -> bool) -> u64 {
        // The one above first: a kill between the two may be counted once too often for a moment, but is never lost.
        let above = self.above.as_deref().and_then(count_in);
        match count_in(&self.own) {
            Some(own) => {
                self.seen = own;
                self.seen_above = above.unwrap_or(self.seen_above);
                own
            }
            None if was_told() => {
                let since = above.map_or(0, |above| above.saturating_sub(self.seen_above));
                self.seen + since
            }
            None => self.seen,
        }
    }
}

/// The counter in a file; none where the file has gone.
fn count_in(path: &Path) -> Option<u64> {
    // v1 has the line since Linux 4.13.
    file::read(path).ok().map(|text| file::field(&text, KILLS).unwrap_or(0))
}

const KILLS: &str = "oom_kill";

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Cgroup {
    /// How many processes of the cgroup the OOM killer has killed so far.
    ///
    /// # Errors
    /// Where there is no memory controller or the cgroup is gone.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        let (own, _) = self.oom_files()?;
        Ok(file::field(&file::read(&own)?, KILLS).unwrap_or(0))
    }

    /// The same, as a counter that outlives the cgroup.
    ///
    /// # Errors
    /// Where there is no memory controller.
    pub fn oom_counter(&self) -> Result<OomCounter, Error> {
        let (own, above) = self.oom_files()?;
        Ok(OomCounter::new(own, above))
    }

    /// Where OOM kills are counted: here, and on v2 above.
    fn oom_files(&self) -> Result<(PathBuf, Option<PathBuf>), Error> {
        let dir = self.dir("memory").ok_or(Error::Missing {
            what: "the OOM counter",
            controller: "memory",
        })?;
        Ok(match dir.version {
            Version::V1 => (dir.path.join("memory.oom_control"), None),
            Version::V2 => {
                let above = dir.path.parent().map(|parent| parent.join("memory.events"));
                (dir.path.join("memory.events"), above)
            }
        })
    }

    /// Starts watching for OOM kills.
    ///
    /// # Errors
    /// Where there is no memory controller, or the host is out of inotify watches.
    pub fn watch_oom(&self) -> Result<OomWatch, Error> {
        let dir = self.dir("memory").ok_or(Error::Missing {
            what: "the OOM watch",
            controller: "memory",
        })?;
        match dir.version {
            Version::V1 => {
                let path = dir.path.join("memory.oom_control");
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                let event = eventfd(0, flags).map_err(|errno| Error::at("make an eventfd for", &path)(errno.into()))?;
                let control = openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|errno| Error::at("open", &path)(errno.into()))?;
                // cgroup-v1/memory.rst section 10: "<event_fd> <fd of memory.oom_control>". The kernel holds both from
                // then on; the registration ends with the eventfd or the cgroup.
                let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
                file::write(&dir.path.join("cgroup.event_control"), &line)?;
                Ok(OomWatch::new(event))
            }
            Version::V2 => {
                let path = dir.path.join("memory.events");
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let fd = inotify::init(flags).map_err(|errno| Error::at("make an inotify for", &path)(errno.into()))?;
                inotify::add_watch(&fd, &path, inotify::WatchFlags::MODIFY)
                    .map_err(|errno| Error::at("watch", &path)(errno.into()))?;
                Ok(OomWatch::new(fd))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cgroup and the one above it, as files.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            let files = Self(tempfile::tempdir().unwrap());
            std::fs::create_dir(files.0.path().join("own")).unwrap();
            files.write("own/", 0);
            files.write("", 3);
            files
        }

        fn write(&self, place: &str, kills: u64) {
            let text = format!("low 0\nhigh 0\nmax 9\noom 9\noom_kill {kills}\noom_group_kill 0\n");
            std::fs::write(self.0.path().join(format!("{place}memory.events")), text).unwrap();
        }

        fn remove(&self) {
            std::fs::remove_dir_all(self.0.path().join("own")).unwrap();
        }

        fn counter(&self) -> OomCounter {
            let above = self.0.path().join("memory.events");
            OomCounter::new(self.0.path().join("own/memory.events"), Some(above))
        }
    }

    #[test]
    fn a_kill_is_found_above_when_the_cgroup_has_gone() {
        let files = Files::new();
        let mut counter = files.counter();
        assert_eq!(counter.kills(|| true), 0, "those above are not ours");
        files.write("", 4);
        files.remove();
        assert_eq!(counter.kills(|| true), 1);
        assert_eq!(counter.kills(|| true), 1, "asked twice, counted twice");
    }

    #[test]
    fn a_neighbours_kill_is_not_taken_for_an_own_one() {
        let files = Files::new();
        let mut counter = files.counter();
        files.write("", 4);
        assert_eq!(counter.kills(|| true), 0, "its own counter is there");
        files.remove();
        assert_eq!(counter.kills(|| true), 0, "it was seen before");
        files.write("", 5);
        assert_eq!(counter.kills(|| false), 0, "nothing was told of");
    }

    #[test]
    fn after_a_kill_of_our_own_the_one_above_says_nothing() {
        let files = Files::new();
        let mut counter = files.counter();
        files.write("own/", 1);
        files.write("", 4);
        assert_eq!(counter.kills(|| true), 1);
        counter.settle();
        files.write("own/", 2);
        assert_eq!(counter.kills(|| true), 2, "its own still counts");
        files.write("", 6);
        files.remove();
        assert_eq!(counter.kills(|| true), 2);
    }

    #[test]
    fn what_was_seen_stays_known() {
        let files = Files::new();
        let mut counter = files.counter();
        files.write("own/", 2);
        files.write("", 5);
        assert_eq!(counter.kills(|| true), 2);
        files.remove();
        assert_eq!(counter.kills(|| true), 2);
        std::fs::remove_file(files.0.path().join("memory.events")).unwrap();
        assert_eq!(counter.kills(|| true), 2, "with nothing above any more");
    }
}
