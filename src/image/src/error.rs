//! The crate's one error: an operation, its object, the cause, and a [`Kind`] from which the
//! gRPC code follows. It is cheap to clone because one failed pull is told to every caller
//! that waited for it.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use spec::Kind;

/// The word with which the kubelet's back-off recognises a registry that is away
/// (`k8s.io/cri-api/pkg/errors`, `ErrRegistryUnavailable`). It must begin the message.
pub const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";

/// What went wrong, with what, why.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    reason: Option<&'static str>,
    /// Innermost first.
    context: Vec<String>,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    /// Waiting a little and asking again would not help.
    settled: bool,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            reason: None,
            context: Vec::new(),
            message: message.into(),
            source: None,
            settled: false,
        }))
    }

    /// A registry that does not answer, or answers that it cannot now.
    pub(crate) fn registry_unavailable(message: impl Into<String>) -> Self {
        let mut error = Self::new(Kind::Unavailable, message);
        error.0.reason = Some(REGISTRY_UNAVAILABLE);
        error
    }

    pub(crate) fn io(op: &str, object: impl fmt::Display, source: io::Error) -> Self {
        let mut error = Self::new(Kind::of_io(&source), format!("{op} {object}: {source}"));
        error.0.source = Some(Arc::new(source));
        error
    }

    pub(crate) fn caused(
        kind: Kind,
        message: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
    ) -> Self {
        let mut error = Self::new(kind, message);
        error.0.message = format!("{}: {source}", error.0.message);
        error.0.source = Some(Arc::new(source));
        error
    }

    /// The same error, seen from the operation around it.
    #[must_use]
    pub(crate) fn within(mut self, context: impl fmt::Display) -> Self {
        self.0.context.push(context.to_string());
        self
    }

    pub(crate) fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Marks an error that no retry within the same verb cures.
    #[must_use]
    pub(crate) fn settled(mut self) -> Self {
        self.0.settled = true;
        self
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.0.settled
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The kubelet's word for it, where there is one; it also begins the message.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        self.0.reason
    }
}

/// For `map_err` on rustix calls.
pub(crate) fn sys(op: &str, object: impl fmt::Display) -> impl FnOnce(rustix::io::Errno) -> Error {
    move |errno| Error::io(op, object, errno.into())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = self.0.reason {
            write!(f, "{reason}: ")?;
        }
        for context in self.0.context.iter().rev() {
            write!(f, "{context}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The message carries the direct cause's text already: go on below it.
        self.0.source.as_ref().and_then(|source| source.source())
    }
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        let kind = match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::OutOfMemory) => Kind::ResourceExhausted,
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => Kind::DataLoss,
            _ => Kind::Internal,
        };
        Self::caused(kind, "image database", source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_begins_the_message_whatever_is_around_it() {
        let error = Error::registry_unavailable("connect: refused")
            .within("manifest v1")
            .within("pull x");
        assert_eq!(
            error.to_string(),
            "RegistryUnavailable: pull x: manifest v1: connect: refused"
        );
        assert_eq!(error.kind(), Kind::Unavailable);
    }

    #[test]
    fn a_full_disk_is_resource_exhausted() {
        let error = Error::io("write", "file", io::Error::from_raw_os_error(28));
        assert_eq!(error.kind(), Kind::ResourceExhausted);
    }
}
