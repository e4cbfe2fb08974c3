//! Capabilities: the names, and all five sets of this process.

use std::fmt;
use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::prctl;

/// Names by number, without `CAP_`.
const NAMES: [&str; 41] = [
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

/// A set of capabilities, one bit for each number.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps(pub u64);

/// `CAP_SETPCAP`.
pub const SETPCAP: Caps = Caps(1 << 8);
/// `CAP_SYS_ADMIN`.
pub const SYS_ADMIN: Caps = Caps(1 << 21);
/// `CAP_SYS_RESOURCE`.
pub const SYS_RESOURCE: Caps = Caps(1 << 24);
/// `CAP_MKNOD`.
pub const MKNOD: Caps = Caps(1 << 27);

impl Caps {
    /// Every one that is known here.
    #[must_use]
    pub fn all() -> Self {
        Self((1 << NAMES.len()) - 1)
    }

    /// The set of one capability, by its name with or without `CAP_`, in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES
            .iter()
            .position(|known| *known == short)
            .map(|number| Self(1 << number))
    }

    /// Both together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this one alone.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is in this one.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, as `CAP_CHOWN`.
    pub fn names(self) -> impl Iterator<Item = String> {
        (0..64)
            .filter(move |n| self.0 & (1 << n) != 0)
            .map(|n| match NAMES.get(n) {
                Some(name) => format!("CAP_{name}"),
                None => format!("CAP_{n}"),
            })
    }
}

impl fmt::Debug for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// The three sets of capget(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// What the kernel checks.
    pub effective: Caps,
    /// What may become effective.
    pub permitted: Caps,
    /// What a file may hand over at execve.
    pub inheritable: Caps,
}

/// The sets of this process.
///
/// # Errors
/// What capget(2) says.
pub fn get() -> io::Result<Sets> {
    let sets = rustix::thread::capabilities(None)?;
    Ok(Sets {
        effective: Caps(sets.effective.bits()),
        permitted: Caps(sets.permitted.bits()),
        inheritable: Caps(sets.inheritable.bits()),
    })
}

/// Sets effective, permitted and inheritable set of this process.
///
/// # Errors
/// EPERM for more than there is.
pub fn set(sets: Sets) -> io::Result<()> {
    let bits = |caps: Caps| CapabilitySet::from_bits_retain(caps.0);
    Ok(rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: bits(sets.effective),
            permitted: bits(sets.permitted),
            inheritable: bits(sets.inheritable),
        },
    )?)
}

/// The bounding set of this process: also the set of capabilities that this kernel knows and this host grants.
///
/// # Errors
/// What prctl(2) says.
pub fn bounding() -> io::Result<Caps> {
    let mut caps = Caps::default();
    for number in 0..64 {
        match prctl::bounding_has(number) {
            Ok(true) => caps.0 |= 1 << number,
            Ok(false) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(caps)
}

/// Leaves in the bounding set what is in `keep`.
///
/// # Errors
/// EPERM without `CAP_SETPCAP`.
pub fn bound(keep: Caps) -> io::Result<()> {
    let have = bounding()?;
    (0..64)
        .filter(|n| have.minus(keep).0 & (1 << n) != 0)
        .try_for_each(prctl::bounding_drop)
}

/// Makes the ambient set `caps`.
///
/// # Errors
/// EPERM where one of them is not both permitted and inheritable.
pub fn set_ambient(caps: Caps) -> io::Result<()> {
    prctl::ambient_clear()?;
    (0..64)
        .filter(|n| caps.0 & (1 << n) != 0)
        .try_for_each(prctl::ambient_raise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_kernel() {
        assert_eq!(Caps::named("CAP_CHOWN"), Some(Caps(1)));
        assert_eq!(Caps::named("sys_admin"), Some(SYS_ADMIN));
        assert_eq!(Caps::named("SETPCAP"), Some(SETPCAP));
        assert_eq!(Caps::named("CAP_SYS_RESOURCE"), Some(SYS_RESOURCE));
        assert_eq!(Caps::named("MKNOD"), Some(MKNOD));
        assert_eq!(Caps::named("CHECKPOINT_RESTORE"), Some(Caps(1 << 40)));
        assert_eq!(Caps::named("CAP_NONSENSE"), None);
        assert_eq!(
            Caps(0b11).names().collect::<Vec<_>>(),
            ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]
        );
    }

    #[test]
    fn sets_shrink_in_the_child() {
        let child = crate::process::fork(|| {
            let run = || {
                let keep = Caps(0b101).union(SETPCAP);
                bound(keep)?;
                set(Sets {
                    effective: keep,
                    permitted: keep,
                    inheritable: Caps(1),
                })?;
                set_ambient(Caps(1))?;
                io::Result::Ok(bounding()? == keep && get()?.permitted == keep && set_ambient(Caps(2)).is_err())
            };
            u8::from(!run().unwrap_or(false))
        })
        .unwrap();
        assert_eq!(crate::process::wait(child).unwrap(), crate::process::Exit::Code(0));
    }
}
