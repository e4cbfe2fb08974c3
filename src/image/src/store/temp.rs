//! Directories in the making. Their names begin with a dot, which nothing finished has:
//! whatever is left of them after a crash is removed at the next start.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use spec::ContainerId;

use crate::error::{Error, sys};
use crate::store::janitor::Janitor;

/// A new directory that is removed unless it is kept.
pub(crate) struct TempDir {
    path: PathBuf,
    janitor: Arc<Janitor>,
    kept: bool,
}

impl TempDir {
    /// Makes `<parent>/.tmp-<random>`, mode 0755: it becomes the root of a layer.
    pub(crate) fn new(parent: &Path, janitor: &Arc<Janitor>) -> Result<Self, Error> {
        let name = ContainerId::random().map_err(|e| Error::io("random", "name", std::io::Error::other(e)))?;
        let path = parent.join(format!(".tmp-{}", name.short()));
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(sys("mkdir", path.display()))?;
        let temp = Self {
            path,
            janitor: Arc::clone(janitor),
            kept: false,
        };
        // Whatever umask the daemon runs with.
        rustix::fs::fchmod(temp.open()?, Mode::from_raw_mode(0o755)).map_err(sys("chmod", temp.path.display()))?;
        Ok(temp)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn open(&self) -> Result<OwnedFd, Error> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty()).map_err(sys("open", self.path.display()))
    }

    /// Gives the directory its final name.
    pub(crate) fn keep(mut self, target: &Path) -> Result<(), Error> {
        rustix::fs::rename(&self.path, target).map_err(sys("rename to", target.display()))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !self.kept {
            self.janitor.delete(self.path.clone());
        }
    }
}
