//! Spec and facts of this host → plan. Pure: no system call, so that every rule has a test without root.
//!
//! What the host withholds is decided here, before anything is done: clamped with a reason where safety does not
//! suffer (`oom_score_adj`, limits, capabilities without which the process has less, not more), refused otherwise.
//! Ids in the plan are the container's; where the host is concerned, `userns` translates.

pub(crate) mod devices;
pub(crate) mod hooks;
pub(crate) mod label;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod process;
pub(crate) mod resources;
pub(crate) mod sysctl;
pub(crate) mod userns;
mod validate;

pub(crate) use validate::keyring;

use std::path::PathBuf;

use rustix::process::Resource;
use spec::runtime::{LinuxResources, LinuxSeccomp, Spec};
use sys::cap::Caps;
use sys::mount::{Propagation, RDONLY};

use crate::Error;

/// What this host allows the creator.
pub(crate) struct Facts<'a> {
    /// Its permitted and bounding capabilities, intersected.
    pub(crate) caps: Caps,
    /// The lowest `oom_score_adj` that it can set: its own without `CAP_SYS_RESOURCE`.
    pub(crate) oom_score_adj: i32,
    /// Whether a hard limit can be raised.
    pub(crate) may_raise_limits: bool,
    /// Whether the kernel has a security module switched on.
    pub(crate) has: &'a dyn Fn(label::Module) -> bool,
    /// Its hard limit of a resource.
    pub(crate) hard_limit: &'a dyn Fn(Resource) -> Option<u64>,
}

impl Facts<'_> {
    /// What they are inside `user`: it has every capability there, and none over the host, which alone raises limits.
    pub(crate) fn within(&self, user: Option<&userns::User>) -> Self {
        Self {
            caps: if user.is_some() { Caps::all() } else { self.caps },
            may_raise_limits: self.may_raise_limits && user.is_none(),
            ..*self
        }
    }
}

/// Everything that the creator and init need to know.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) namespaces: namespaces::Namespaces,
    pub(crate) user: Option<userns::User>,
    pub(crate) rootfs: PathBuf,
    pub(crate) rootfs_readonly: bool,
    pub(crate) rootfs_propagation: Option<(Propagation, bool)>,
    pub(crate) mounts: Vec<mounts::Mount>,
    pub(crate) devices: devices::Devices,
    pub(crate) masked: Vec<PathBuf>,
    pub(crate) readonly: Vec<PathBuf>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) sysctls: Vec<sysctl::Sysctl>,
    pub(crate) time_offsets: Option<String>,
    pub(crate) cgroup_path: String,
    pub(crate) resources: LinuxResources,
    pub(crate) process: process::Process,
    /// The SELinux context of what is mounted for the container.
    pub(crate) mount_label: Option<String>,
    pub(crate) seccomp: Option<LinuxSeccomp>,
    pub(crate) personality: Option<u64>,
    /// Run the built-in reaper in the place of a program.
    pub(crate) reaper: bool,
    pub(crate) hooks: hooks::Hooks,
    /// A session keyring of its own.
    pub(crate) keyring: bool,
    pub(crate) clamped: Vec<String>,
}

impl Plan {
    /// Checks `spec` and decides everything.
    pub(crate) fn new(id: &str, spec: &Spec, facts: &Facts<'_>) -> Result<Self, Error> {
        validate::supported(spec)?;
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| Error::invalid("linux", "is missing"))?;
        let mut clamped = Vec::new();
        let reaper = validate::reaper(spec)?;
        let namespaces = namespaces::plan(linux)?;
        let user = userns::plan(linux)?;
        let inside = &facts.within(user.as_ref());
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| Error::invalid("process", "is missing"))?;
        let process = process::plan(process, inside, !reaper, &mut clamped)?;
        process.check_mapped(user.as_ref())?;
        let mounts = mounts::plan(spec.mounts().as_deref().unwrap_or_default(), user.is_some())?;
        let devices = devices::plan(
            linux.devices().as_deref().unwrap_or_default(),
            &mounts,
            facts,
            user.as_ref(),
        )?;
        let root = spec.root().as_ref();
        Ok(Self {
            rootfs: root.map_or_else(PathBuf::new, |root| root.path().clone()),
            rootfs_readonly: root.is_some_and(|root| root.readonly().unwrap_or(false)),
            rootfs_propagation: validate::rootfs_propagation(linux.rootfs_propagation().as_deref())?,
            masked: validate::absolute("linux.maskedPaths", linux.masked_paths().as_deref())?,
            readonly: validate::absolute("linux.readonlyPaths", linux.readonly_paths().as_deref())?,
            hostname: validate::host_name("hostname", spec.hostname().as_deref(), &namespaces)?,
            domainname: validate::host_name("domainname", spec.domainname().as_deref(), &namespaces)?,
            sysctls: sysctl::plan(linux.sysctl().as_ref(), &namespaces)?,
            time_offsets: namespaces::time_offsets(linux, &namespaces)?,
            cgroup_path: resources::cgroup_path(id, linux.cgroups_path().as_deref())?,
            resources: resources::plan(linux.resources().as_ref()),
            personality: process::personality(linux.personality().as_ref())?,
            mount_label: label::one(
                "linux.mountLabel",
                linux.mount_label().as_deref(),
                label::Module::SeLinux,
                inside,
            )?,
            seccomp: linux.seccomp().clone(),
            namespaces,
            user,
            mounts,
            devices,
            process,
            reaper,
            hooks: hooks::plan(spec)?,
            keyring: keyring(spec)?,
            clamped,
        })
    }

    /// The host's user who is to own the cgroup, where that is not root: the user of the process, if it has the cgroup as
    /// the root of a new cgroup namespace and may write there (OCI runtime-spec 1.3, config-linux.md, "Cgroup ownership").
    pub(crate) fn cgroup_owner(&self) -> Option<u32> {
        let writable = |mount: &mounts::Mount| {
            mount.what == mounts::What::Cgroup && (mount.attr.set | mount.tree_attr.set) & RDONLY == 0
        };
        if !self.namespaces.is_new(libc::CLONE_NEWCGROUP) || !self.mounts.iter().any(writable) {
            return None;
        }
        let uid = match &self.user {
            Some(user) => user.maps.host_uid(self.process.uid)?,
            None => self.process.uid,
        };
        (uid != 0).then_some(uid)
    }
}

#[cfg(test)]
mod mounts_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod userns_tests;
