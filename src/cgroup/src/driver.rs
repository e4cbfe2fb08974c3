//! The two drivers: we write the cgroup file system ourselves, or systemd does. What differs between them is here; paths,
//! joining, reading and killing are the same.

use std::str::FromStr;

use spec::runtime::LinuxResources;
use thiserror::Error as ThisError;

use crate::{Cgroup, Error, Host, systemd};

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// We write to the cgroup file system ourselves.
    Cgroupfs,
    /// systemd makes slices and scopes.
    Systemd,
}

/// A cgroup driver that this build does not have.
#[derive(Debug, ThisError, PartialEq, Eq)]
#[error("cgroup driver {0:?} is not available: \"cgroupfs\" and \"systemd\" are")]
pub struct UnknownDriver(String);

impl FromStr for DriverKind {
    type Err = UnknownDriver;

    fn from_str(text: &str) -> Result<Self, UnknownDriver> {
        match text {
            "cgroupfs" => Ok(Self::Cgroupfs),
            "systemd" => Ok(Self::Systemd),
            other => Err(UnknownDriver(other.chars().take(40).collect())),
        }
    }
}

impl DriverKind {
    /// The name of a container's cgroup below that of its pod.
    #[must_use]
    pub fn container_name(self, id: &str) -> String {
        match self {
            Self::Cgroupfs => id.to_owned(),
            Self::Systemd => format!("bulkhead-{id}.scope"),
        }
    }

    /// Makes the cgroup that others are made in: a directory, or a slice.
    ///
    /// # Errors
    /// As [`Host::create`] and [`systemd::start_slice`].
    pub fn make_parent(self, host: &Host, path: &str) -> Result<Cgroup, Error> {
        match self {
            Self::Cgroupfs => host.create(path),
            Self::Systemd => systemd::start_slice(host, path),
        }
    }

    /// Moves a process into a cgroup that is kept for processes of ours, made where it is not there.
    ///
    /// # Errors
    /// As [`Cgroup::join`] and [`systemd::enter_scope`].
    pub fn enter(self, host: &Host, path: &str, pid: i32, description: &str) -> Result<(), Error> {
        match self {
            Self::Cgroupfs => host.create(path)?.join(pid),
            Self::Systemd => systemd::enter_scope(host, path, pid, description).map(drop),
        }
    }

    /// Writes limits.
    ///
    /// # Errors
    /// As [`Cgroup::apply`] and [`Cgroup::apply_by_systemd`].
    pub fn apply(self, group: &Cgroup, limits: &LinuxResources) -> Result<(), Error> {
        match self {
            Self::Cgroupfs => group.apply(limits),
            Self::Systemd => group.apply_by_systemd(limits),
        }
    }

    /// Removes a cgroup without processes; one that is gone is fine.
    ///
    /// # Errors
    /// As [`Cgroup::remove`] and [`systemd::stop`].
    pub fn remove(self, host: &Host, path: &str) -> Result<(), Error> {
        if self == Self::Systemd {
            systemd::stop(host, path)?;
        }
        match host.open(path) {
            Err(error) if error.kind() == spec::Kind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(group) => group.remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_by_name() {
        assert_eq!("cgroupfs".parse(), Ok(DriverKind::Cgroupfs));
        assert_eq!("systemd".parse(), Ok(DriverKind::Systemd));
        assert!("openrc".parse::<DriverKind>().is_err());
        assert_eq!(DriverKind::Systemd.container_name("ab"), "bulkhead-ab.scope");
    }
}
