//! Sysctls that belong to a namespace of a pod: their names, and which namespace (namespaces(7)). All others are the
//! host's. CVE-2022-0811: a value smuggled past such a check became `kernel.core_pattern`.

/// The namespace that has a sysctl for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The network namespace.
    Network,
    /// The IPC namespace.
    Ipc,
}

const IPC: [&str; 8] = [
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
];

/// Whose `name` is, which must have dots between its parts; None for one of the host's.
#[must_use]
pub fn owner(name: &str) -> Option<Owner> {
    if name.starts_with("net.") {
        Some(Owner::Network)
    } else if name.starts_with("fs.mqueue.") || IPC.contains(&name) {
        Some(Owner::Ipc)
    } else {
        None
    }
}

/// Checks that name and value are exactly one file and one line; the name with dots between its parts.
///
/// # Errors
/// What is wrong.
pub fn check(key: &str, value: &str) -> Result<String, &'static str> {
    // `/` separates where a component has a dot: net/ipv4/conf/eth0.1/forwarding.
    let name = if key.contains('/') {
        key.replace('/', ".")
    } else {
        key.to_owned()
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || !name.bytes().all(good) || name.contains("..") || name.starts_with('.') || name.ends_with('.')
    {
        return Err("not a sysctl's name");
    }
    if value.bytes().any(|b| matches!(b, b'\0' | b'\n' | b'\r')) {
        return Err("its value contains a line break or a NUL byte");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_file_of_a_namespace() {
        assert_eq!(
            check("net/ipv4/conf/all/forwarding", "1").unwrap(),
            "net.ipv4.conf.all.forwarding"
        );
        for (key, value) in [
            ("", "1"),
            ("net..x", "1"),
            ("../kernel", "1"),
            ("net.x;y", "1"),
            (".net", "1"),
            ("net.", "1"),
            ("net.a", "1\nx"),
            ("net.a", "1\0"),
        ] {
            assert!(check(key, value).is_err(), "{key:?}");
        }
        assert_eq!(owner("net.core.somaxconn"), Some(Owner::Network));
        assert_eq!(owner("fs.mqueue.msg_max"), Some(Owner::Ipc));
        assert_eq!(owner("kernel.shmmax"), Some(Owner::Ipc));
        for host in ["kernel.core_pattern", "kernel.shmmaxx", "vm.swappiness", "network.x"] {
            assert_eq!(owner(host), None, "{host}");
        }
    }
}
