//! Sysctls: only what belongs to a namespace that the container does not share with the host (CVE-2022-0811: a
//! value smuggled past a check became `kernel.core_pattern`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::namespaces::Namespaces;
use super::userns::Maps;
use crate::Error;

/// One value below `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// Relative to procfs: `sys/net/ipv4/ip_forward`.
    pub(crate) path: PathBuf,
    /// As written.
    pub(crate) value: String,
}

impl Sysctl {
    /// The value as the host's root writes it for a user namespace: the one sysctl that holds ids has the container's in
    /// the spec and the host's in its file. Clipped to what is mapped.
    pub(crate) fn for_groups(self, maps: &Maps) -> Result<Self, Error> {
        if self.path != Path::new("sys/net/ipv4/ping_group_range") {
            return Ok(self);
        }
        let invalid = |why: &str| Error::invalid("linux.sysctl[\"net.ipv4.ping_group_range\"]", why);
        let ids: Option<Vec<u32>> = self.value.split_whitespace().map(|id| id.parse().ok()).collect();
        let Some([first, last]) = ids.as_deref() else {
            return Err(invalid("is not two numbers"));
        };
        // "1 0" is how it says "nobody", in any namespace.
        if first > last {
            return Ok(self);
        }
        let map = maps
            .gids
            .iter()
            .find(|map| (map.inside..=map.inside + (map.size - 1)).contains(first));
        let map = map.ok_or_else(|| invalid("its first group is not mapped in the user namespace"))?;
        let last = (*last).min(map.inside + (map.size - 1));
        let outside = |id: u32| map.outside + (id - map.inside);
        Ok(Self {
            value: format!("{} {}", outside(*first), outside(last)),
            ..self
        })
    }
}

pub(super) fn plan(sysctls: Option<&HashMap<String, String>>, namespaces: &Namespaces) -> Result<Vec<Sysctl>, Error> {
    let mut all: Vec<_> = sysctls.into_iter().flatten().collect();
    all.sort();
    all.into_iter()
        .map(|(key, value)| one(key, value, |kind| namespaces.is_private(kind)))
        .collect()
}

/// Checks one; `is_private` says whether the namespace of a kind is not the host's.
pub(crate) fn one(key: &str, value: &str, is_private: impl Fn(libc::c_int) -> bool) -> Result<Sysctl, Error> {
    let field = || format!("linux.sysctl[{key:?}]");
    // Where a dot comes first dots part and a slash is a dot in a name; else it is the other way round (sysctl.d(5)).
    let slashes = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'/');
    let path = if slashes {
        key.to_owned()
    } else {
        key.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect()
    };
    let good = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@' | b':'))
    };
    if !path.split('/').all(good) {
        return Err(Error::invalid(field(), "is no name of a sysctl"));
    }
    if value.bytes().any(|byte| matches!(byte, 0 | b'\n' | b'\r')) {
        return Err(Error::invalid(field(), "the value holds a line break or NUL"));
    }
    let needs = match path.as_str() {
        "kernel/shm_rmid_forced"
        | "kernel/sem"
        | "kernel/msgmax"
        | "kernel/msgmnb"
        | "kernel/msgmni"
        | "kernel/shmall"
        | "kernel/shmmax"
        | "kernel/shmmni" => (libc::CLONE_NEWIPC, "IPC"),
        "kernel/domainname" | "kernel/hostname" => (libc::CLONE_NEWUTS, "UTS"),
        path if path.starts_with("fs/mqueue/") => (libc::CLONE_NEWIPC, "IPC"),
        path if path.starts_with("net/") => (libc::CLONE_NEWNET, "network"),
        _ => return Err(Error::invalid(field(), "is not one that belongs to a namespace")),
    };
    if is_private(needs.0) {
        Ok(Sysctl {
            path: PathBuf::from("sys").join(path),
            value: value.to_owned(),
        })
    } else {
        Err(Error::invalid(
            field(),
            format!("needs a {} namespace that is not the host's", needs.1),
        ))
    }
}
