//! What cgroups this machine has: read from `/proc/self/mountinfo`, whose mount points carry the
//! hierarchies. Where the root of a mount is not "/" (a container that is a VM to us, a bind mount of a
//! subtree) paths are relative to what the mount shows: nothing above it can be reached.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use thiserror::Error as ThisError;

use crate::{Cgroup, Error, file, make, path};

/// The controllers that we use. Others (net_cls, perf_event, name=systemd, …) are left alone.
pub(crate) const WANTED: [&str; 11] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "io", "pids", "hugetlb", "rdma",
];

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// We write to the cgroup file system ourselves.
    Cgroupfs,
    /// systemd makes a scope before a container is made, and takes it away after it; inside, we write ourselves.
    Systemd,
}

/// A cgroup driver that this build does not have.
#[derive(Debug, ThisError, PartialEq, Eq)]
#[error("there is no cgroup driver {0:?}: \"cgroupfs\" and \"systemd\" are the ones")]
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

/// Which kernel interface carries the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// v1 hierarchies carry them; hybrid counts as this.
    V1,
    /// The one v2 hierarchy carries them.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    pub(crate) version: Version,
    /// The wanted controllers that it carries.
    pub(crate) controllers: Vec<String>,
    /// Who is in a cgroup namespace cannot write the limits of its root (`nsdelegate`, Linux 4.13).
    pub(crate) delegates: bool,
}

impl Hierarchy {
    pub(crate) fn carries(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    pub(crate) fn dir(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }
}

/// The cgroup hierarchies of this host.
#[derive(Debug, Clone)]
pub struct Host {
    version: Version,
    hierarchies: Vec<Hierarchy>,
    controllers: Vec<String>,
}

impl Host {
    /// Finds the mounted hierarchies and their controllers.
    ///
    /// # Errors
    /// [`Error::NotMounted`] where there is none; [`Error::Path`] where they cannot be read.
    pub fn detect() -> Result<Self, Error> {
        let mounts = file::read(Path::new("/proc/self/mountinfo"))?;
        let mut hierarchies = parse(&mounts);
        for hierarchy in hierarchies
            .iter_mut()
            .filter(|hierarchy| hierarchy.version == Version::V2)
        {
            let offered = file::read(&hierarchy.mount.join("cgroup.controllers"))?;
            hierarchy.controllers = offered
                .split_whitespace()
                .filter(|name| WANTED.contains(name))
                .map(str::to_owned)
                .collect();
        }
        Self::from_hierarchies(hierarchies)
    }

    /// As [`Host::detect`], once in the life of this process and of what it forks: the mount table that it reads grows
    /// with every pod of the host, the hierarchies in it stay.
    ///
    /// # Errors
    /// As [`Host::detect`]; a failure is not kept.
    pub fn shared() -> Result<&'static Self, Error> {
        static HOST: OnceLock<Host> = OnceLock::new();
        match HOST.get() {
            Some(host) => Ok(host),
            None => Self::detect().map(|host| HOST.get_or_init(|| host)),
        }
    }

    fn from_hierarchies(hierarchies: Vec<Hierarchy>) -> Result<Self, Error> {
        let is_v1 = hierarchies.iter().any(|one| one.version == Version::V1);
        if hierarchies.is_empty() {
            return Err(Error::NotMounted);
        }
        let mut controllers: Vec<String> = hierarchies.iter().flat_map(|one| one.controllers.clone()).collect();
        controllers.sort();
        controllers.dedup();
        Ok(Self {
            version: if is_v1 { Version::V1 } else { Version::V2 },
            hierarchies,
            controllers,
        })
    }

    /// A host with v2 alone and these controllers, mounted nowhere.
    #[cfg(all(test, feature = "systemd"))]
    pub(crate) fn v2_with(controllers: &[&str]) -> Self {
        let hierarchy = Hierarchy {
            mount: PathBuf::from("/nonexistent"),
            version: Version::V2,
            controllers: controllers.iter().map(|&name| name.to_owned()).collect(),
            delegates: true,
        };
        Self {
            version: Version::V2,
            controllers: hierarchy.controllers.clone(),
            hierarchies: vec![hierarchy],
        }
    }

    /// A cgroup by its path, there or not.
    #[cfg(feature = "systemd")]
    pub(crate) fn at(&self, path: &str) -> Cgroup {
        Cgroup::new(path.to_owned(), self.version, &self.hierarchies)
    }

    /// Which interface carries the controllers.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether a cgroup can be given to who is inside it without its limits: v2 alone, with `nsdelegate`.
    #[must_use]
    pub fn delegates(&self) -> bool {
        self.version == Version::V2 && self.hierarchies.iter().all(|one| one.delegates)
    }

    /// The controllers that can be used, sorted.
    #[must_use]
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// Makes the cgroup in every hierarchy, its ancestors too; one that exists is taken as it is.
    ///
    /// # Errors
    /// A path with "..", or what mkdir or the inheritance of cpuset and `subtree_control` answered. What
    /// was made until then is removed.
    pub fn create(&self, path: &str) -> Result<Cgroup, Error> {
        let path = path::normalise(path)?;
        make::create(&self.hierarchies, self.version, &path)?;
        Ok(Cgroup::new(path, self.version, &self.hierarchies))
    }

    /// A handle on a cgroup that should exist.
    ///
    /// # Errors
    /// Not found where it exists in none of the hierarchies.
    pub fn open(&self, path: &str) -> Result<Cgroup, Error> {
        let path = path::normalise(path)?;
        if !self.hierarchies.iter().any(|one| one.dir(&path).is_dir()) {
            let dir = self.hierarchies[0].dir(&path);
            return Err(Error::at("open", &dir)(std::io::ErrorKind::NotFound.into()));
        }
        Ok(Cgroup::new(path, self.version, &self.hierarchies))
    }
}

/// The hierarchies in a mountinfo text (proc_pid_mountinfo(5)); of several mounts of one, the first.
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<(String, Hierarchy)> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut right = right.split(' ');
        let version = match right.next() {
            Some("cgroup") => Version::V1,
            Some("cgroup2") => Version::V2,
            _ => continue,
        };
        let options = right.nth(1).unwrap_or_default();
        let mut left = left.split(' ').skip(2);
        let (Some(device), Some(mount)) = (left.next(), left.nth(1)) else {
            continue;
        };
        let controllers: Vec<String> = options
            .split(',')
            .filter(|name| WANTED.contains(name))
            .map(str::to_owned)
            .collect();
        if version == Version::V1 && controllers.is_empty() || found.iter().any(|(seen, _)| seen == device) {
            continue;
        }
        found.push((
            device.to_owned(),
            Hierarchy {
                mount: unescape(mount),
                version,
                controllers,
                delegates: options.split(',').any(|option| option == "nsdelegate"),
            },
        ));
    }
    found.into_iter().map(|(_, hierarchy)| hierarchy).collect()
}

/// mountinfo writes blank, tab, newline and backslash as \ooo.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = text.as_bytes();
    let mut clean = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(byte) => {
                clean.push(byte);
                at += 4;
            }
            None => {
                clean.push(bytes[at]);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(clean).into()
}

#[cfg(test)]
mod v2_tests;

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/0a /sys/fs/cgroup/mem\\040ory rw - cgroup cgroup rw,memory
36 31 0:32 /x /other rw - cgroup cgroup rw,memory
37 31 0:33 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls,net_prio
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn hybrid_is_read_and_the_unwanted_left_alone() {
        let found = parse(HYBRID);
        let mounts: Vec<_> = found.iter().map(|one| one.mount.to_str().unwrap()).collect();
        assert_eq!(
            mounts,
            [
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/mem ory",
                "/sys/fs/cgroup/unified"
            ]
        );
        assert_eq!(found[0].controllers, ["cpu", "cpuacct"]);
        let host = Host::from_hierarchies(found).unwrap();
        assert_eq!(host.version(), Version::V1);
        assert_eq!(host.controllers(), ["cpu", "cpuacct", "memory"]);
    }

    #[test]
    fn v2_alone_is_v2_and_nothing_is_an_error() {
        let found = parse("25 21 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n");
        assert_eq!(Host::from_hierarchies(found).unwrap().version(), Version::V2);
        assert!(matches!(Host::from_hierarchies(Vec::new()), Err(Error::NotMounted)));
    }

    #[test]
    fn drivers() {
        assert_eq!("cgroupfs".parse(), Ok(DriverKind::Cgroupfs));
        assert_eq!("systemd".parse::<DriverKind>(), Ok(DriverKind::Systemd));
        assert!("openrc".parse::<DriverKind>().is_err());
    }
}
