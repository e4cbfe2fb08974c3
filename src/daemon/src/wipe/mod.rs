//! Removes all that a stopped daemon left: processes, cgroups, mounts, namespaces, files.
//!
//! Found by what lies below this daemon's own root and state, never by a name that another
//! daemon could share: the ids of its pods and containers are the names of its directories,
//! and cgroups and network namespaces carry those ids. Order: processes and their cgroups, monitors,
//! networks (CNI DEL, while the namespaces are there), mounts, files; what fails is told and
//! the rest goes on. Run twice, the second run finds nothing.

mod act;
mod find;
mod mounts;

use std::fmt;
use std::path::PathBuf;

pub(crate) use act::act;
pub(crate) use find::{Place, find};

/// One thing to be done. They are done in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ends the monitor of a container.
    EndMonitor { pid: i32, container: String },
    /// Kills all in a cgroup, and removes it.
    RemoveCgroup { path: String },
    /// Removes our cgroup in each hierarchy, where it is empty: another daemon may share it.
    RemoveEmptyCgroups { name: String, paths: Vec<PathBuf> },
    /// Gives back what the network plugins hold for the pods: CNI DEL for each attachment.
    ReleaseNetworks { cache: PathBuf },
    /// Takes a mount away.
    Unmount { path: PathBuf },
    /// Removes a file.
    RemoveFile { path: PathBuf },
    /// Removes a directory and all below it.
    RemoveTree { path: PathBuf },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndMonitor { pid, container } => write!(f, "end monitor {pid} of container {container}"),
            Self::RemoveCgroup { path } => write!(f, "kill all in cgroup {path} and remove it"),
            Self::RemoveEmptyCgroups { name, .. } => write!(f, "remove cgroup /{name} where it is empty"),
            Self::ReleaseNetworks { cache } => write!(f, "release the networks recorded in {}", cache.display()),
            Self::Unmount { path } => write!(f, "unmount {}", path.display()),
            Self::RemoveFile { path } => write!(f, "remove {}", path.display()),
            Self::RemoveTree { path } => write!(f, "remove {} and all below it", path.display()),
        }
    }
}
