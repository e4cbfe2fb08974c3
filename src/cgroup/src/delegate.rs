//! Giving a v2 cgroup to whoever is inside it (cgroups(7), "Delegation"): the directory and the files by which processes
//! are moved and cgroups are made below it, and no limit. And the way into a cgroup that is divided: only its leaves have
//! processes then.

use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::{Cgroup, Entry, Error, Version, file};

/// Where the kernel says which files go with the directory (Linux 4.15).
const LIST: &str = "/sys/kernel/cgroup/delegate";

/// What it says at least.
const FILES: [&str; 3] = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

impl Cgroup {
    /// Makes `uid` the owner. v1 hierarchies, and a v2 tree beside them, are left alone: there it would be the limits' too.
    ///
    /// # Errors
    /// What chown(2) says; a file that this kernel does not have is none.
    pub fn delegate(&self, uid: u32) -> Result<(), Error> {
        if self.version() == Version::V1 {
            return Ok(());
        }
        let listed = file::read(Path::new(LIST)).unwrap_or_else(|_| FILES.join("\n"));
        for dir in &self.dirs {
            let own = |path: &Path| std::os::unix::fs::chown(path, Some(uid), None);
            own(&dir.path).map_err(Error::at("give away", &dir.path))?;
            for name in listed.lines().filter(|name| !name.contains('/')) {
                let path = dir.path.join(name);
                match own(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => other.map_err(Error::at("give away", &path))?,
                }
            }
        }
        Ok(())
    }

    /// As [`Cgroup::entry`], but its v2 half is the cgroup that process `pid` is in, which must lie in this one: where a
    /// cgroup is divided (EBUSY at its door), a process joins one that is there.
    ///
    /// # Errors
    /// Not found where the process is gone; invalid where it is somewhere else.
    pub fn entry_beside(&self, pid: i32) -> Result<Entry, Error> {
        let text = file::read(Path::new(&format!("/proc/{pid}/cgroup")))?;
        let place = text
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or_default();
        let below = Path::new(place).strip_prefix(self.path()).ok();
        let below = below.filter(|path| path.components().all(|part| matches!(part, Component::Normal(_))));
        let below =
            below.ok_or_else(|| Error::invalid("the cgroup of a process", place, "it lies outside the container's"))?;
        let mut entry = self.entry()?;
        if let Some(dir) = self.dirs.iter().find(|dir| dir.version == Version::V2) {
            let path = dir.path.join(below);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = openat(CWD, &path, flags, Mode::empty());
            entry.be_born_in(opened.map_err(|error| Error::at("open", &path)(error.into()))?);
        }
        Ok(entry)
    }
}
