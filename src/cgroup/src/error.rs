//! What can go wrong with a cgroup: operation, object, cause and kind.

use std::io;
use std::path::{Path, PathBuf};

use spec::Kind;
use thiserror::Error;

/// A failed cgroup operation.
#[derive(Debug, Error)]
pub enum Error {
    /// A system call on a cgroup file or directory failed.
    #[error("cgroup: {op} {}", path.display())]
    Path {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refused a limit.
    #[error("cgroup: write {value:?} to {}", path.display())]
    Write {
        /// The control file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A memory limit below what is in use now: it would kill, not limit.
    #[error("cgroup: memory limit {limit} of {path:?} is below the {usage} bytes in use")]
    BelowUsage {
        /// The cgroup.
        path: String,
        /// The limit asked for.
        limit: u64,
        /// Bytes in use.
        usage: u64,
    },
    /// A change was refused, and what had been changed before could not be taken back.
    #[error("cgroup: {source}; what was changed before it could not be taken back: {stayed}")]
    NotTakenBack {
        /// Why the change was refused.
        source: Box<Error>,
        /// What stays changed, and why.
        stayed: String,
    },
    /// A path or a value that no cgroup can have.
    #[error("cgroup: {what} {value:?}: {why}")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// Its value, shortened.
        value: String,
        /// What is wanted.
        why: &'static str,
    },
    /// This host has no such controller.
    #[error("cgroup: {what} needs the {controller} controller, which this host does not offer")]
    Missing {
        /// Which limit or verb.
        what: &'static str,
        /// The controller.
        controller: &'static str,
    },
    /// No cgroup file system is mounted.
    #[error("cgroup: no cgroup file system is mounted on this host")]
    NotMounted,
    /// Processes or children stayed after all attempts.
    #[error("cgroup: {path:?} is still in use after {attempts} attempts")]
    Busy {
        /// The cgroup.
        path: String,
        /// How often removal was tried.
        attempts: u32,
    },
    /// The freezer did not reach the wanted state in time.
    #[error("cgroup: {path:?} did not freeze in {millis} ms and was thawed")]
    NotFrozen {
        /// The cgroup.
        path: String,
        /// How long it was waited for.
        millis: u64,
    },
    /// systemd did not do what it was asked.
    #[error("systemd: {op} {unit}: {reason}")]
    Systemd {
        /// What was asked, as a verb.
        op: &'static str,
        /// Of which unit.
        unit: String,
        /// Whether it did not answer in time.
        is_late: bool,
        /// What it said.
        reason: String,
    },
}

impl Error {
    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Path { source, .. } => Kind::of_io(source),
            Self::Write { source, .. } => match source.raw_os_error() {
                // EINVAL and ERANGE speak about the value, EBUSY about a memory limit below usage.
                Some(libc_errno::EINVAL | libc_errno::ERANGE | libc_errno::EBUSY) => Kind::InvalidArgument,
                _ => Kind::of_io(source),
            },
            Self::BelowUsage { .. } | Self::Invalid { .. } => Kind::InvalidArgument,
            Self::Missing { .. } | Self::NotMounted => Kind::Unimplemented,
            Self::Busy { .. } => Kind::FailedPrecondition,
            Self::NotFrozen { .. } | Self::Systemd { is_late: true, .. } => Kind::DeadlineExceeded,
            Self::Systemd { .. } => Kind::Unavailable,
            Self::NotTakenBack { .. } => Kind::Internal,
        }
    }

    pub(crate) fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Path {
            op,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn invalid(what: &'static str, value: &str, why: &'static str) -> Self {
        Self::Invalid {
            what,
            value: value.chars().take(120).collect(),
            why,
        }
    }

    /// What lies beneath, in words.
    pub(crate) fn reason(&self) -> String {
        std::error::Error::source(self).map_or_else(|| self.to_string(), ToString::to_string)
    }

    /// The file is there, what it tells is switched off.
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Path { source, .. } if source.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()))
    }

    pub(crate) fn is_missing_file(&self) -> bool {
        matches!(self, Self::Path { source, .. } | Self::Write { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

mod libc_errno {
    use rustix::io::Errno;
    pub(super) const EINVAL: i32 = Errno::INVAL.raw_os_error();
    pub(super) const ERANGE: i32 = Errno::RANGE.raw_os_error();
    pub(super) const EBUSY: i32 = Errno::BUSY.raw_os_error();
}
