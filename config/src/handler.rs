//! Runtime handlers: what a RuntimeClass name stands for.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::SeccompDefault;
use crate::section::{leaf, section};

/// Name of the handler that is always there.
pub const BUILT_IN_HANDLER: &str = "bulkhead";

/// Who isolates the containers of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HandlerKind {
    /// Our own isolation layer, inside the monitor.
    Isolation,
}

// By hand, because another runtime deserves more than "unknown variant".
impl<'de> Deserialize<'de> for HandlerKind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match String::deserialize(from)?.as_str() {
            "isolation" => Ok(Self::Isolation),
            other @ ("oci" | "vm" | "runc" | "crun" | "youki" | "runsc" | "kata") => Err(D::Error::custom(format!(
                "{other:?}: other runtimes behind a handler are not there yet, they come in a later release; \
                 use isolation, our own layer"
            ))),
            other => Err(D::Error::custom(format!(
                "{other:?} is no kind of handler; use isolation"
            ))),
        }
    }
}

/// A resource limit of a process (getrlimit(2)), written `name=soft:hard`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// The name in lower case, without `RLIMIT_`.
    pub name: String,
    /// What applies.
    pub soft: u64,
    /// Up to which the process may raise it.
    pub hard: u64,
}

const RLIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

impl FromStr for Rlimit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text {
            "unlimited" => Ok(u64::MAX),
            text => text
                .parse()
                .map_err(|_| format!("{text:?} is neither a number nor unlimited")),
        };
        let form = || format!("{text:?} is no limit; write it like nofile=1024:4096");
        let (name, values) = text.split_once('=').ok_or_else(form)?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        if !RLIMITS.contains(&name) {
            return Err(format!("{name:?} is none of {}", RLIMITS.join(", ")));
        }
        let (soft, hard) = (number(soft)?, number(hard)?);
        if soft > hard {
            return Err(format!("{text:?}: the soft limit is above the hard one"));
        }
        Ok(Self {
            name: name.to_owned(),
            soft,
            hard,
        })
    }
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |value: u64| match value {
            u64::MAX => "unlimited".to_owned(),
            value => value.to_string(),
        };
        write!(f, "{}={}:{}", self.name, word(self.soft), word(self.hard))
    }
}

impl Serialize for Rlimit {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rlimit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

leaf!(
    HandlerKind,
    Vec<Rlimit>,
    Option<SeccompDefault>,
    Option<Vec<String>>,
    Option<u64>
);

section! {
    /// One runtime handler.
    Handler, GivenHandler {
        /// Who isolates its containers: isolation (our own layer).
        kind: HandlerKind = HandlerKind::Isolation;
        /// Capabilities of a container that asks for nothing else; null means runtime.default_capabilities.
        default_capabilities: Option<Vec<String>> = None;
        /// Profile of a container that names none; null means runtime.default_seccomp.
        default_seccomp: Option<SeccompDefault> = None;
        /// A privileged container gets no device nodes of the host but those it asks for.
        privileged_without_host_devices: bool = false;
        /// With the key above: the device cgroup lets it use all devices, whatever nodes it has.
        privileged_without_host_devices_all_devices_allowed: bool = false;
        /// Annotations of a pod that go into the OCI specification of its containers, by name; * and ? match all but '/'.
        pod_annotations: Vec<String> = Vec::new();
        /// Annotations of a container that go into its OCI specification, by name; * and ? match all but '/'.
        container_annotations: Vec<String> = Vec::new();
        /// JSON file with the profile that RuntimeDefault means; null means runtime.seccomp_profile.
        seccomp_profile: Option<PathBuf> = None;
        /// Annotations that the OCI specification of every container has, like name=value; the caller's, let through, win.
        default_annotations: Vec<String> = Vec::new();
        /// systemd or /sbin/init as a container's program gets tmpfs on /run, /run/lock and /tmp, SIGRTMIN+3 as stop signal and, on cgroup v2, its cgroup to divide.
        init_systems: bool = true;
        /// Containers share the session keyring that the daemon was started with, instead of one of their own.
        no_new_keyring: bool = false;
        /// A container may write into its own cgroup; needs cgroup v2.
        cgroup_writable: bool = false;
        /// Limits of each first process, like nofile=1024:4096; those that are not named are the daemon's own.
        rlimits: Vec<Rlimit> = Vec::new();
        /// Bytes that a memory limit must have at least; null means runtime.container_min_memory.
        container_min_memory: Option<u64> = None;
        /// Most processes and threads in one container; 0 means as many as the pod may have.
        pids_limit: u32 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_survives_its_text() {
        for (text, wanted) in [
            ("nofile=1024:4096", "nofile=1024:4096"),
            ("core=0", "core=0:0"),
            ("memlock=8:unlimited", "memlock=8:unlimited"),
        ] {
            assert_eq!(text.parse::<Rlimit>().unwrap().to_string(), wanted);
        }
        for bad in [
            "",
            "nofile",
            "nofile=",
            "files=1",
            "nofile=2:1",
            "nofile=-1",
            "NOFILE=1",
        ] {
            assert!(bad.parse::<Rlimit>().is_err(), "{bad}");
        }
    }
}
