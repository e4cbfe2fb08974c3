//! What can go wrong between this process and the kernel's network tables.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error;

/// A failure of a netlink exchange or of entering a namespace.
#[derive(Debug, Error)]
pub enum Error {
    /// The socket itself failed.
    #[error("netlink: {op}: {source}")]
    Socket {
        /// The system call.
        op: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("{what}: {}", io::Error::from_raw_os_error(errno.raw_os_error()))]
    Refused {
        /// The request in words.
        what: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The reply does not follow the protocol.
    #[error("netlink: malformed reply: {0}")]
    Malformed(&'static str),
    /// A dump was interrupted by changes each time it was tried.
    #[error("netlink: {0}: the table kept changing while it was read")]
    Unstable(&'static str),
    /// Whoever sent a request ended before the kernel answered.
    #[error("{0}: its sender ended without an answer")]
    Unanswered(String),
    /// A network namespace cannot be opened or entered.
    #[error("network namespace {}: {op}: {source}", path.display())]
    Namespace {
        /// What was tried.
        op: &'static str,
        /// The namespace file.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn socket(op: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Socket {
            op,
            source: errno.into(),
        }
    }

    /// The errno behind this error, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket { source, .. } | Self::Namespace { source, .. } => source.raw_os_error(),
            Self::Refused { errno, .. } => Some(errno.raw_os_error()),
            Self::Malformed(_) | Self::Unstable(_) | Self::Unanswered(_) => None,
        }
    }

    /// Whether the object named does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.errno().is_some_and(|errno| {
            [
                Errno::NOENT,
                Errno::NODEV,
                Errno::SRCH,
                Errno::NXIO,
                Errno::ADDRNOTAVAIL,
            ]
            .iter()
            .any(|known| known.raw_os_error() == errno)
        })
    }

    /// Whether the object exists already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST.raw_os_error())
    }
}
