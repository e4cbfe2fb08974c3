//! Types of single values that are more than a number or a string.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::section::leaf;

/// Capabilities of a container that asks for nothing else: CRI-O's nine. `NET_RAW`,
/// `MKNOD`, `SYS_CHROOT`, `AUDIT_WRITE` and `SETFCAP` of the longer list that Docker made
/// usual are left out: raw sockets let a pod forge its neighbour's addresses (CVE-2020-14386).
pub(crate) const DEFAULT_CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "KILL",
];

/// All capabilities of Linux 6.18 (linux/capability.h), by number.
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// How serious a log line must be to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures alone.
    Error,
    /// And what is odd.
    Warn,
    /// And each verb.
    Info,
    /// And each step.
    Debug,
    /// And each message.
    Trace,
}

impl LogLevel {
    /// The level's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LogLevel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no log level; use error, warn, info, debug or trace"))
    }
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// We write the cgroup files ourselves.
    Cgroupfs,
    /// systemd makes a slice for each pod and a scope for each container; we write the files inside. cgroup v2 only.
    Systemd,
}

impl CgroupDriver {
    /// The driver's name, as the kubelet's `cgroupDriver` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// The seccomp profile of a container that names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompDefault {
    /// Our default profile.
    RuntimeDefault,
    /// None.
    Unconfined,
}

/// What becomes of SELinux options where there is no SELinux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingSelinux {
    /// An error for who asked.
    Refuse,
    /// A line in the log.
    Ignore,
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// 1.2
    #[serde(rename = "1.2")]
    V12,
    /// 1.3
    #[serde(rename = "1.3")]
    V13,
}

/// What is done about the VOLUME lines of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageVolumes {
    /// A directory of the container's own, mounted there.
    Bind,
    /// A directory in the container's root.
    Mkdir,
    /// Nothing.
    Ignore,
}

leaf!(
    LogLevel,
    CgroupDriver,
    SeccompDefault,
    MissingSelinux,
    ImageVolumes,
    TlsVersion
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_survives_its_name() {
        for level in ["error", "warn", "info", "debug", "trace"] {
            assert_eq!(level.parse::<LogLevel>().unwrap().as_str(), level);
        }
        assert!("loud".parse::<LogLevel>().unwrap_err().contains("loud"));
    }

    #[test]
    fn the_default_capabilities_exist() {
        assert!(DEFAULT_CAPABILITIES.iter().all(|name| CAPABILITIES.contains(name)));
    }
}
