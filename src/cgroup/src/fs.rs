//! One cgroup: join it, list its processes, remove it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::host::Hierarchy;
use crate::{Error, Version, file};

/// How often a removal that answers EBUSY is tried again, and the longest pause between two attempts. A dead
/// process leaves its cgroup only when the kernel has run down its last references.
const ATTEMPTS: u32 = 24;
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The directory of a cgroup in one hierarchy.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) path: PathBuf,
    pub(crate) mount: PathBuf,
    pub(crate) version: Version,
    pub(crate) controllers: Vec<String>,
}

/// One cgroup: the same path in every hierarchy of the host.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    version: Version,
    pub(crate) dirs: Vec<Dir>,
    /// v2 only: the directory, for clone3 with `CLONE_INTO_CGROUP`.
    handle: Option<OwnedFd>,
}

impl Cgroup {
    pub(crate) fn new(path: String, version: Version, hierarchies: &[Hierarchy]) -> Self {
        let dirs: Vec<Dir> = hierarchies
            .iter()
            .map(|one| Dir {
                path: one.dir(&path),
                mount: one.mount.clone(),
                version: one.version,
                controllers: one.controllers.clone(),
            })
            .collect();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = match version {
            Version::V1 => None,
            // A directory that is gone has no handle; the verb that needs it says so.
            Version::V2 => dirs
                .first()
                .and_then(|dir| openat(CWD, &dir.path, flags, Mode::empty()).ok()),
        };
        Self {
            path,
            version,
            dirs,
            handle,
        }
    }

    /// The path, relative to the root of each hierarchy.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where the controllers live.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The directory to be born in, for clone3 with `CLONE_INTO_CGROUP` (Linux 5.7). `None` where v1
    /// hierarchies carry controllers: then [`Cgroup::join`] is the way.
    #[must_use]
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.handle.as_ref().map(|fd| fd.as_fd())
    }

    /// The mount point of each hierarchy, and the cgroup's own directory in it: what a container may be shown.
    pub fn dirs(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.dirs.iter().map(|dir| (dir.mount.as_path(), dir.path.as_path()))
    }

    pub(crate) fn dir(&self, controller: &str) -> Option<&Dir> {
        self.dirs
            .iter()
            .find(|dir| dir.controllers.iter().any(|own| own == controller))
    }

    pub(crate) fn v2(&self) -> Option<&Dir> {
        self.dirs.iter().find(|dir| dir.version == Version::V2)
    }

    /// Moves a process (all of its threads) into the cgroup; 0 is the caller.
    ///
    /// # Errors
    /// ESRCH where there is no such process, ENOENT where the cgroup is gone.
    pub fn join(&self, pid: i32) -> Result<(), Error> {
        let text = pid.to_string();
        for dir in &self.dirs {
            match file::write(&dir.path.join("cgroup.procs"), &text) {
                // The v2 tree beside v1 is optional (see make.rs).
                Err(_) if self.version == Version::V1 && dir.version == Version::V2 => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// The processes in the cgroup and below it.
    ///
    /// # Errors
    /// When a list cannot be read; a cgroup that is gone has no processes.
    pub fn procs(&self) -> Result<Vec<i32>, Error> {
        let mut pids = BTreeSet::new();
        // Hybrid: a process may have been put into one of the two worlds only. All v1 hierarchies are joined
        // in one pass, so one of them speaks for the others.
        let v1 = self.dirs.iter().find(|dir| dir.version == Version::V1);
        for dir in v1.into_iter().chain(self.v2()) {
            collect(&dir.path, &mut pids)?;
        }
        Ok(pids.into_iter().collect())
    }

    /// Removes the cgroup and what is below it in every hierarchy, waiting with back-off (about a second in all) for
    /// the kernel to let go of dead processes. One that is gone already is fine.
    ///
    /// # Errors
    /// [`Error::Busy`] where live processes stay.
    pub fn remove(&self) -> Result<(), Error> {
        let mut pause = Duration::from_micros(200);
        for _ in 1..ATTEMPTS {
            if self.try_remove()? {
                return Ok(());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if self.try_remove()? {
            Ok(())
        } else {
            Err(Error::Busy {
                path: self.path.clone(),
                attempts: ATTEMPTS,
            })
        }
    }

    /// As [`Cgroup::remove`], once and without waiting, for an event loop. False where something is busy.
    ///
    /// # Errors
    /// What rmdir answered, other than that it is busy or gone.
    pub fn try_remove(&self) -> Result<bool, Error> {
        let mut gone = true;
        for dir in &self.dirs {
            gone &= remove_tree(&dir.path)?;
        }
        if gone && self.version == Version::V1 {
            self.v2().into_iter().for_each(prune);
        }
        Ok(gone)
    }
}

/// The kubelet makes pod cgroups in the v1 hierarchies only and removes them there; the empty ancestors that we had to
/// make in a v2 tree beside them would stay for ever.
fn prune(dir: &Dir) {
    for ancestor in dir
        .path
        .ancestors()
        .skip(1)
        .take_while(|one| *one != dir.mount && one.starts_with(&dir.mount))
    {
        if rustix::fs::rmdir(ancestor).is_err() {
            return;
        }
    }
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn collect(dir: &Path, pids: &mut BTreeSet<i32>) -> Result<(), Error> {
    let text = match file::read(&dir.join("cgroup.procs")) {
        Err(error) if error.is_missing_file() => return Ok(()),
        // A threaded cgroup answers EOPNOTSUPP; its threads' leaders are in the domain above it.
        Err(Error::Path { source, .. })
            if source.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) =>
        {
            String::new()
        }
        // ENODEV: the directory went away between open and read.
        Err(Error::Path { source, .. }) if source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            return Ok(());
        }
        other => other?,
    };
    // A process of another pid namespace than ours is shown as 0: nothing that we could signal.
    pids.extend(
        text.lines()
            .filter_map(|line| line.trim().parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    for child in children(dir).map_err(Error::at("list", dir))? {
        collect(&child, pids)?;
    }
    Ok(())
}

/// Removes children first. False where something is busy.
fn remove_tree(dir: &Path) -> Result<bool, Error> {
    use rustix::io::Errno;
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => return Err(Error::at("remove", dir)(errno.into())),
    }
    let below = children(dir).map_err(Error::at("list", dir))?;
    if below.is_empty() {
        return Ok(false);
    }
    let mut gone = true;
    for child in below {
        gone &= remove_tree(&child)?;
    }
    if !gone {
        return Ok(false);
    }
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(Error::at("remove", dir)(errno.into())),
    }
}
