//! The way in for a process with one thread that will not see `/sys/fs/cgroup` any more when it goes in: the files, opened
//! ahead.
//!
//! It is also the fast way. Writing a pid to `cgroup.procs` takes a lock that waits for a grace period of RCU: 5 to
//! 15 ms on a machine at rest. A thread that moves itself by writing 0 to v1's `tasks` needs none (Linux 5.4,
//! `cgroup_procs_write_start`), and neither does being born in a v2 cgroup, which a hybrid host has beside.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::{Cgroup, Error, Version};

/// A cgroup about to be entered.
#[derive(Debug)]
pub struct Entry {
    tasks: Vec<(PathBuf, File)>,
    v2: Option<OwnedFd>,
}

impl Cgroup {
    /// Opens the files for [`Entry::enter`].
    ///
    /// # Errors
    /// When one of them cannot be opened; the v2 tree beside v1 is optional.
    pub fn entry(&self) -> Result<Entry, Error> {
        let mut entry = Entry {
            tasks: Vec::new(),
            v2: None,
        };
        for dir in &self.dirs {
            match dir.version {
                Version::V1 => {
                    let path = dir.path.join("tasks");
                    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                    let file = openat(CWD, &path, flags, Mode::empty())
                        .map_err(|error| Error::at("open", &path)(error.into()))?;
                    entry.tasks.push((path, file.into()));
                }
                Version::V2 => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    entry.v2 = match openat(CWD, &dir.path, flags, Mode::empty()) {
                        Ok(fd) => Some(fd),
                        Err(_) if self.version() == Version::V1 => None,
                        Err(error) => return Err(Error::at("open", &dir.path)(error.into())),
                    };
                }
            }
        }
        Ok(entry)
    }
}

impl Entry {
    /// Another v2 directory to be born in.
    pub(crate) fn be_born_in(&mut self, directory: OwnedFd) {
        self.v2 = Some(directory);
    }

    /// To be entered by writing in v2 too: the kernel then asks who opened the file, and not who is to be born
    /// (`cgroup_procs_write_start`, CVE-2021-4197). For a creator in a user namespace, who may not write to a cgroup that
    /// was given to its container.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn by_writing(mut self) -> Result<Self, Error> {
        if let Some(directory) = self.v2.take() {
            let path = PathBuf::from("cgroup.procs");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(&directory, &path, flags, Mode::empty());
            let file = file.map_err(|error| Error::at("open", &path)(error.into()))?;
            self.tasks.push((path, file.into()));
        }
        Ok(self)
    }

    /// The v2 directory to be born in, for clone3 with `CLONE_INTO_CGROUP` (Linux 5.7), on a hybrid host too.
    #[must_use]
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(|fd| fd.as_fd())
    }

    /// Moves the calling process, which has one thread, into the hierarchies that it was not born in. Together with having
    /// been born in [`Entry::clone_into`] that is all of them.
    ///
    /// # Errors
    /// What the kernel says: ENODEV where the cgroup is gone.
    pub fn enter(self) -> Result<(), Error> {
        for (path, mut file) in self.tasks {
            file.write_all(b"0").map_err(Error::at("enter", &path))?;
        }
        Ok(())
    }
}
