//! Sysctls: only what belongs to a namespace that the container does not share with the host (CVE-2022-0811: a
//! value smuggled past a check became `kernel.core_pattern`).

use std::collections::HashMap;
use std::path::PathBuf;

use super::namespaces::Namespaces;
use crate::Error;

/// One value below `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// Relative to procfs: `sys/net/ipv4/ip_forward`.
    pub(crate) path: PathBuf,
    /// As written.
    pub(crate) value: String,
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
