//! The architectures that a program here can be, and what is particular about them.

use spec::runtime::Arch;

use crate::syscalls::{NONE, TABLE};

/// Numbers of x32 calls carry this bit (arch/x86/include/uapi/asm/unistd.h).
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// One system call ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abi {
    X86_64,
    I386,
    X32,
    Aarch64,
}

impl Abi {
    /// The ABI that this program itself uses.
    pub(crate) const NATIVE: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    /// The profile's name for it; `None` for machines that we have no table of, which this host is not.
    pub(crate) fn of(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchNative => Some(Self::NATIVE),
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX86 => Some(Self::I386),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// `seccomp_data.arch`, from include/uapi/linux/audit.h. x32 shares that of x86_64.
    pub(crate) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The number of a call, with the ABI's own bit.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        let row = TABLE.binary_search_by(|(own, _)| (*own).cmp(name)).ok()?;
        let (column, bit) = match self {
            Self::X86_64 => (0, 0),
            Self::I386 => (1, 0),
            Self::X32 => (2, X32_BIT),
            Self::Aarch64 => (3, 0),
        };
        let number = TABLE[row].1[column];
        (number != NONE).then(|| u32::from(number) | bit)
    }

    /// Whether the kernel looks at the low 32 bits of the argument only, whatever is above them. A filter that compares
    /// 64 would let `TIOCSTI | 1 << 32` through (CVE-2019-10063, CVE-2023-28100).
    pub(crate) fn is_32_bit(self, name: &str, index: usize) -> bool {
        self == Self::I386
            || matches!(
                (name, index),
                ("ioctl" | "fcntl" | "setns" | "futex", 1)
                    | ("socket" | "socketpair", 0..=2)
                    | ("setsockopt" | "getsockopt", 1 | 2)
                    | ("openat" | "madvise" | "kcmp" | "reboot", 2)
                    | ("open", 1)
                    | ("seccomp", 0 | 1)
                    // clone takes lower_32_bits() of its flags.
                    | ("personality" | "prctl" | "arch_prctl" | "clone" | "keyctl" | "bpf" | "quotactl" | "socketcall", 0)
            )
    }
}

/// Whether any of our tables has the name.
pub(crate) fn is_known(name: &str) -> bool {
    TABLE.binary_search_by(|(own, _)| (*own).cmp(name)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by(|(a, _), (b, _)| a < b));
    }

    #[test]
    fn known_numbers() {
        assert_eq!(Abi::X86_64.number("execve"), Some(59));
        assert_eq!(Abi::I386.number("execve"), Some(11));
        assert_eq!(Abi::X32.number("execve"), Some(X32_BIT | 520));
        assert_eq!(Abi::Aarch64.number("execve"), Some(221));
        assert_eq!(Abi::X86_64.number("socketcall"), None);
        assert_eq!(Abi::X86_64.number("no_such_call"), None);
    }
}
