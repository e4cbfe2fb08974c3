//! Who makes cgroups: we, by writing to the cgroup file system, or systemd, asked over D-Bus. What differs between the two
//! is here; joining, reading and killing are the same and need no word with systemd.
//!
//! Under systemd a path ends in the unit's name: `/kubepods.slice/kubepods-besteffort.slice/bulkhead-ID.scope`. A scope is
//! made with a process in it or not at all: a [`StandIn`] keeps it until the container's own one is there.

use std::process::Stdio;

use cgroup::{DriverKind, Scope, Systemd};
use spec::Kind;
use spec::runtime::LinuxResources;

use crate::blocking;
use crate::error::Error;

/// The driver of this node.
#[derive(Debug)]
pub(crate) struct Groups {
    host: cgroup::Host,
    systemd: Option<Systemd>,
}

/// Keeps a scope open; gone when dropped.
#[derive(Debug)]
pub(crate) struct StandIn {
    _process: tokio::process::Child,
}

impl Groups {
    /// Connects to systemd, where that is the driver.
    pub(crate) async fn new(host: cgroup::Host, driver: config::CgroupDriver) -> Result<Self, Error> {
        let systemd = match driver {
            config::CgroupDriver::Cgroupfs => None,
            config::CgroupDriver::Systemd if host.version() == cgroup::Version::V1 => {
                return Err(Error::new(
                    Kind::FailedPrecondition,
                    "cgroup_driver: systemd wants cgroup v2, and this host has v1; use cgroupfs here and in the kubelet's configuration",
                ));
            }
            config::CgroupDriver::Systemd => {
                let made = Systemd::connect().await;
                Some(made.map_err(|e| Error::at("use", "the systemd cgroup driver", &e))?)
            }
        };
        Ok(Self { host, systemd })
    }

    pub(crate) fn kind(&self) -> DriverKind {
        match self.systemd {
            None => DriverKind::Cgroupfs,
            Some(_) => DriverKind::Systemd,
        }
    }

    /// The driver's name, as the monitor knows it.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind() {
            DriverKind::Cgroupfs => "cgroupfs",
            DriverKind::Systemd => "systemd",
        }
    }

    /// Makes a pod's cgroup; one that is there is taken as it is.
    pub(crate) async fn make_pod(&self, path: &str) -> Result<(), Error> {
        let at = |e: &cgroup::Error| Error::at("make the cgroup", path, e);
        let Some(systemd) = &self.systemd else {
            let (host, path) = (self.host.clone(), path.to_owned());
            return blocking(move || {
                let made = host.create(&path);
                made.map(drop).map_err(|e| Error::at("make the cgroup", &path, &e))
            })
            .await;
        };
        if self.host.open(path).is_ok() {
            return Ok(());
        }
        let unit = cgroup::unit_of(path);
        systemd.start_slice(unit, "pod").await.map_err(|e| at(&e))
    }

    /// Makes a container's cgroup where systemd must; under the other driver the container's creator does.
    pub(crate) async fn hold(
        &self,
        path: &str,
        description: &str,
        mut command: impl FnMut() -> tokio::process::Command,
    ) -> Result<Option<StandIn>, Error> {
        let Some(systemd) = &self.systemd else { return Ok(None) };
        let mut command = command();
        // Its end is the end of its input: it does not outlive the daemon either.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        let at = |e: std::io::Error| Error::at("start", "the stand-in of a scope", &e);
        let process = command.spawn().map_err(at)?;
        let pid = process
            .id()
            .ok_or_else(|| Error::new(Kind::Unavailable, "the stand-in of a scope ended at once"))?;
        self.scope(systemd, path, pid, description).await?;
        Ok(Some(StandIn { _process: process }))
    }

    /// Moves a process of ours into a cgroup that is made where it is not there.
    pub(crate) async fn enter(&self, path: &str, pid: i32, description: &str) -> Result<(), Error> {
        let at = |e: &cgroup::Error| Error::at("move a process to", path, e);
        let Some(systemd) = &self.systemd else {
            let group = self.host.create(path).map_err(|e| at(&e))?;
            return group.join(pid).map_err(|e| at(&e));
        };
        let number = u32::try_from(pid).map_err(|_| Error::new(Kind::Internal, format!("{pid} is no pid")))?;
        // What an earlier daemon left: its monitors live in it.
        if self.host.open(path).is_ok() && systemd.attach(cgroup::unit_of(path), number).await.is_ok() {
            return Ok(());
        }
        self.scope(systemd, path, number, description).await
    }

    async fn scope(&self, systemd: &Systemd, path: &str, pid: u32, description: &str) -> Result<(), Error> {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        let scope = Scope {
            name: cgroup::unit_of(path),
            slice: cgroup::unit_of(above),
            description,
            pid,
        };
        let made = systemd.start_scope(&scope).await;
        made.map_err(|e| Error::at("make the cgroup", path, &e))
    }

    /// Tells systemd of limits that were written to the files.
    pub(crate) async fn tell(&self, path: &str, limits: &LinuxResources) -> Result<(), Error> {
        let Some(systemd) = &self.systemd else { return Ok(()) };
        let told = systemd.set_limits(&self.host, cgroup::unit_of(path), limits).await;
        told.map_err(|e| Error::at("set the limits of", path, &e))
    }

    /// Ends the unit of a cgroup, where it has one; before its directory is removed.
    pub(crate) async fn stop(&self, path: &str) -> Result<(), Error> {
        let Some(systemd) = &self.systemd else { return Ok(()) };
        let stopped = systemd.stop(cgroup::unit_of(path)).await;
        stopped.map_err(|e| Error::at("stop the unit of", path, &e))
    }
}

/// The name of a container's cgroup below that of its pod.
pub(crate) fn container_name(driver: DriverKind, id: &str) -> String {
    match driver {
        DriverKind::Cgroupfs => id.to_owned(),
        DriverKind::Systemd => format!("bulkhead-{id}.scope"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_a_directory_or_a_scope() {
        assert_eq!(container_name(DriverKind::Cgroupfs, "ab"), "ab");
        assert_eq!(container_name(DriverKind::Systemd, "ab"), "bulkhead-ab.scope");
    }
}
