//! The kinds of errors. A gRPC code, an exit code or a CNI code is one `match` on a `Kind`.

use std::fmt;
use std::io;

/// What sort of failure an error is, independent of the words that describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller asked for something malformed.
    InvalidArgument,
    /// The object named does not exist.
    NotFound,
    /// An object of that name exists, with other contents.
    AlreadyExists,
    /// The object is in the wrong state for this verb.
    FailedPrecondition,
    /// The host or a policy forbids it.
    PermissionDenied,
    /// A registry wants (other) credentials.
    Unauthenticated,
    /// Disk, memory, ids or addresses are used up.
    ResourceExhausted,
    /// The other side is away; a retry may help.
    Unavailable,
    /// A deadline passed.
    DeadlineExceeded,
    /// The verb was undone because its caller went away or something else took its place.
    Aborted,
    /// This host or this build cannot do it.
    Unimplemented,
    /// Data that was acknowledged is damaged.
    DataLoss,
    /// A fault of ours.
    Internal,
}

impl Kind {
    /// The kind's name on the wire between monitor and daemon.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::FailedPrecondition => "failed_precondition",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Aborted => "aborted",
            Self::Unimplemented => "unimplemented",
            Self::DataLoss => "data_loss",
            Self::Internal => "internal",
        }
    }

    /// The kind that `name` names; an unknown name (of a newer peer) is `Internal`.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        const ALL: [Kind; 13] = [
            Kind::InvalidArgument,
            Kind::NotFound,
            Kind::AlreadyExists,
            Kind::FailedPrecondition,
            Kind::PermissionDenied,
            Kind::Unauthenticated,
            Kind::ResourceExhausted,
            Kind::Unavailable,
            Kind::DeadlineExceeded,
            Kind::Aborted,
            Kind::Unimplemented,
            Kind::DataLoss,
            Kind::Internal,
        ];
        ALL.into_iter()
            .find(|kind| kind.name() == name)
            .unwrap_or(Self::Internal)
    }

    /// The kind of an operating system error.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::AlreadyExists,
            io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            // Names and arguments come from callers; ours are short and of a bounded number.
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename | io::ErrorKind::ArgumentListTooLong => {
                Self::InvalidArgument
            }
            // Something stands where a directory was named, or a directory where a file was.
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Self::FailedPrecondition,
            io::ErrorKind::TimedOut => Self::DeadlineExceeded,
            // EAGAIN is fork(2)'s for a limit of processes; sockets that would block never come here.
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::WouldBlock => Self::ResourceExhausted,
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Unavailable
            }
            _ => Self::Internal,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_wire() {
        for kind in [Kind::NotFound, Kind::Internal, Kind::DataLoss, Kind::Unauthenticated] {
            assert_eq!(Kind::from_name(kind.name()), kind);
        }
        assert_eq!(Kind::from_name("of_a_newer_peer"), Kind::Internal);
    }

    #[test]
    fn a_name_that_is_too_long_is_the_callers_fault() {
        // ENAMETOOLONG, E2BIG, EINVAL
        for number in [36, 7, 22] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(Kind::of_io(&error), Kind::InvalidArgument, "{error}");
        }
    }
}
