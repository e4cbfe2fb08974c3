//! One cgroup: join it, list its processes, remove it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
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
    /// What of it is kept open, if anything.
    pub(crate) kept: Option<Kept>,
}

/// A directory that is kept open, and the files of it that were read so far.
#[derive(Debug)]
pub(crate) struct Kept {
    directory: OwnedFd,
    /// None: they are opened for each reading.
    files: Option<Mutex<Vec<(&'static str, OwnedFd)>>>,
}

impl Kept {
    fn read(&self, name: &'static str) -> io::Result<String> {
        let Some(files) = &self.files else {
            return file::read_whole(&file::open(self.directory.as_fd(), Path::new(name))?);
        };
        let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, open)) = files.iter().find(|(of, _)| *of == name) {
            return file::read_whole(open);
        }
        let open = file::open(self.directory.as_fd(), Path::new(name))?;
        let text = file::read_whole(&open)?;
        files.push((name, open));
        Ok(text)
    }
}

impl Dir {
    /// Reads a control file.
    pub(crate) fn read(&self, name: &'static str) -> Result<String, Error> {
        match &self.kept {
            Some(kept) => kept.read(name).map_err(|error| {
                // A file of a cgroup that is gone, opened before.
                let is_gone = error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error());
                let error = if is_gone { io::ErrorKind::NotFound.into() } else { error };
                Error::at("read", &self.path.join(name))(error)
            }),
            None => file::read(&self.path.join(name)),
        }
    }

    /// Reads a control file of one number; "max" is `None`.
    pub(crate) fn read_number(&self, name: &'static str) -> Result<Option<u64>, Error> {
        file::number(&self.read(name)?)
    }

    /// How many cgroups are right below; kernfs counts them among the links of the directory.
    fn below(&self) -> io::Result<usize> {
        let stat = match &self.kept {
            Some(kept) => rustix::fs::fstat(&kept.directory),
            None => rustix::fs::stat(&self.path),
        }?;
        Ok(usize::try_from(stat.st_nlink).unwrap_or(usize::MAX).saturating_sub(2))
    }
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
                kept: None,
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

    /// Keeps the directories open that counters are read from, and with `files` each file from its first reading on: at
    /// most [`Cgroup::directories`] and [`Cgroup::FILES`] descriptors. For a cgroup that is read again and again: to
    /// find and open a file takes several times as long as to read it. Each open file costs the kernel a page.
    ///
    /// # Errors
    /// When a directory cannot be opened; not found where the cgroup is gone.
    pub fn keep(&mut self, files: bool) -> Result<(), Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for dir in self.dirs.iter_mut().filter(|dir| is_measured(dir)) {
            dir.kept = match openat(CWD, &dir.path, flags, Mode::empty()) {
                Ok(directory) => Some(Kept {
                    directory,
                    files: files.then(Mutex::default),
                }),
                // It may be in one of the two worlds only (see make.rs).
                Err(rustix::io::Errno::NOENT) if dir.version == Version::V2 && self.version == Version::V1 => None,
                Err(errno) => return Err(Error::at("open", &dir.path)(errno.into())),
            };
        }
        Ok(())
    }

    /// How many directories [`Cgroup::keep`] opens.
    #[must_use]
    pub fn directories(&self) -> usize {
        self.dirs.iter().filter(|dir| is_measured(dir)).count()
    }

    /// How many files `stats`, `pressures` and `count` read at most.
    pub const FILES: usize = 10;

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
        for dir in self.worlds() {
            collect(&dir.path, &mut pids)?;
        }
        Ok(pids.into_iter().collect())
    }

    /// How many processes there are in the cgroup and below it (on a hybrid host, in the v1 hierarchies), where `below`
    /// are the cgroups that should be: as long as they are all there are, nothing is listed.
    ///
    /// # Errors
    /// As [`Cgroup::procs`].
    pub fn count(&self, below: &[&Self]) -> Result<usize, Error> {
        let Some(dir) = self.counted() else { return Ok(0) };
        let known = below.iter().filter_map(|one| one.counted());
        let known: Vec<&Dir> = known.filter(|one| one.path.parent() == Some(&dir.path)).collect();
        let is_all = dir.below().is_ok_and(|count| count == known.len())
            && known.iter().all(|one| one.below().is_ok_and(|count| count == 0));
        let mut pids = BTreeSet::new();
        if is_all {
            for one in std::iter::once(dir).chain(known) {
                add_pids(one.read("cgroup.procs"), &mut pids)?;
            }
        } else {
            collect(&dir.path, &mut pids)?;
        }
        Ok(pids.len())
    }

    /// Where its processes are counted. All v1 hierarchies are joined in one pass, so one of them speaks for the others;
    /// the memory one is open anyway.
    fn counted(&self) -> Option<&Dir> {
        let is_v1 = |dir: &&Dir| dir.version == Version::V1;
        let v1 = self.dir("memory").filter(is_v1);
        v1.or_else(|| self.dirs.iter().find(is_v1)).or_else(|| self.v2())
    }

    /// As [`Cgroup::counted`], and the v2 tree beside it: a process may have been put into one of the two worlds only.
    fn worlds(&self) -> impl Iterator<Item = &Dir> {
        let v2 = self.v2().filter(|_| self.version == Version::V1);
        self.counted().into_iter().chain(v2)
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

/// Whether `Cgroup::stats`, `pressures` or `count` reads it.
fn is_measured(dir: &Dir) -> bool {
    let has = |controller: &str| dir.controllers.iter().any(|own| own == controller);
    dir.version == Version::V2 || has("memory") || has("cpuacct")
}

fn collect(dir: &Path, pids: &mut BTreeSet<i32>) -> Result<(), Error> {
    let is_there = add_pids(file::read(&dir.join("cgroup.procs")), pids)?;
    if is_there {
        for child in children(dir).map_err(Error::at("list", dir))? {
            collect(&child, pids)?;
        }
    }
    Ok(())
}

/// Adds what was read from `cgroup.procs`. False where the cgroup is gone.
fn add_pids(text: Result<String, Error>, pids: &mut BTreeSet<i32>) -> Result<bool, Error> {
    let text = match text {
        Err(error) if error.is_missing_file() => return Ok(false),
        // A threaded cgroup answers EOPNOTSUPP; its threads' leaders are in the domain above it.
        Err(error) if error.is_unsupported() => String::new(),
        // ENODEV: the directory went away between open and read.
        Err(Error::Path { source, .. }) if source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            return Ok(false);
        }
        other => other?,
    };
    // A process of another pid namespace than ours is shown as 0: nothing that we could signal.
    pids.extend(
        text.lines()
            .filter_map(|line| line.trim().parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    Ok(true)
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
