//! Profiles that cannot be compiled.

use spec::Kind;
use thiserror::Error;

/// Why a profile is no filter.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// A condition names an argument that no system call has.
    #[error("seccomp: {syscall}: argument {index} does not exist (0 to 5)")]
    Argument {
        /// The call.
        syscall: String,
        /// The index given.
        index: usize,
    },
    /// An errno outside of 0..=4095.
    #[error("seccomp: errno {0} does not exist")]
    Errno(u32),
    /// `SCMP_ACT_NOTIFY` where it cannot work.
    #[error("seccomp: SCMP_ACT_NOTIFY {0}")]
    Notify(&'static str),
    /// More instructions than the kernel takes.
    #[error("seccomp: the profile needs {0} instructions, the kernel takes 4096")]
    TooLarge(usize),
}

impl Error {
    /// The kind of failure: always the profile's fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::InvalidArgument
    }
}
