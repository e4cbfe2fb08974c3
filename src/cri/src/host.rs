//! What this host is: read once, when the daemon starts.

use std::collections::HashSet;
use std::path::Path;

use spec::runtime::Capability;

use crate::apparmor;
use crate::container::plan::HostFacts;
use crate::error::Error;

/// Names of the capabilities by number (linux/capability.h).
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The capabilities of a hexadecimal mask, as `/proc/PID/status` prints it.
fn from_mask(mask: u64) -> HashSet<Capability> {
    BY_NUMBER
        .iter()
        .enumerate()
        .filter(|(n, _)| mask >> n & 1 == 1)
        .map(|(_, c)| *c)
        .collect()
}

fn read(path: &str) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|e| Error::at("read", path, &e))
}

/// The boot that this is.
pub(crate) fn boot_id() -> Result<String, Error> {
    Ok(read("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The node's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// mount_setattr(2) came with Linux 5.12.
fn recursive_read_only() -> bool {
    let version = rustix::system::uname();
    let mut numbers = version.release().to_str().unwrap_or_default().split(['.', '-']);
    let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    (next(), next()) >= (5, 12)
}

/// The AppArmor profile of a container that asks for none.
fn default_profile(runtime: &config::Runtime) -> Result<Option<String>, Error> {
    match runtime.apparmor_profile.as_deref() {
        Some("unconfined") => Ok(None),
        Some(name) if !apparmor::is_loaded(name)? => Err(Error::precondition(format!(
            "runtime.apparmor_profile: {name:?} is not loaded on this node"
        ))),
        Some(name) => Ok(Some(name.to_owned())),
        // As the peers: where ours cannot be loaded (no apparmor_parser), containers run without it, and it is said.
        None => Ok(apparmor::load()
            .inspect_err(|error| tracing::warn!(%error, "containers run without an AppArmor profile by default"))
            .ok()),
    }
}

/// Looks at the host.
pub(crate) fn facts(cgroups: &cgroup::Host, runtime: &config::Runtime) -> Result<HostFacts, Error> {
    let status = read("/proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:"))
        .and_then(|m| u64::from_str_radix(m.trim(), 16).ok())
        .ok_or_else(|| Error::new(spec::Kind::Internal, "/proc/self/status shows no CapBnd"))?;
    let apparmor = apparmor::is_on() && !runtime.disable_apparmor;
    let has_selinux = Path::new("/sys/fs/selinux/enforce").exists();
    Ok(HostFacts {
        apparmor,
        default_apparmor: if apparmor { default_profile(runtime)? } else { None },
        selinux: has_selinux && !runtime.disable_selinux,
        refuses_selinux: !has_selinux
            && !runtime.disable_selinux
            && runtime.missing_selinux == config::MissingSelinux::Refuse,
        no_selinux_on_host_network: runtime.hostnetwork_disable_selinux,
        recursive_read_only: recursive_read_only(),
        cgroup_v2: cgroups.version() == cgroup::Version::V2,
        delegates: cgroups.delegates(),
        capabilities: from_mask(mask),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_by_number() {
        assert_eq!(from_mask(0b10_0001), [Capability::Chown, Capability::Kill].into());
        assert_eq!(from_mask(u64::MAX).len(), 41);
        assert!(!boot_id().unwrap().is_empty());
    }
}
