//! Where a node's things lie.

use std::path::{Path, PathBuf};

use super::Node;

impl Node {
    /// The directory of all that belongs to this node.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir().join("cri.sock")
    }

    /// `--root`.
    #[must_use]
    pub fn root_dir(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// A path inside the node's mount namespace, as this process can reach it.
    #[must_use]
    pub fn inside(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix("/").unwrap_or(path);
        PathBuf::from(format!("/proc/{}/root", self.init)).join(below)
    }

    /// `--state`, inside.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// Where pods log.
    #[must_use]
    pub fn logs_dir(&self) -> PathBuf {
        self.dir().join("logs")
    }

    /// Network configuration.
    #[must_use]
    pub fn conf_dir(&self) -> PathBuf {
        self.dir().join("conf")
    }

    /// Network plugins.
    #[must_use]
    pub fn bin_dir(&self) -> PathBuf {
        self.dir().join("bin")
    }

    /// Registry configuration.
    #[must_use]
    pub fn hosts_dir(&self) -> PathBuf {
        self.dir().join("hosts")
    }

    /// The server's log.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir().join("daemon.log")
    }
}
