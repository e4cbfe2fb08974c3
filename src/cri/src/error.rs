//! The one error of this crate: what was done, to what, why it failed, and its kind.
//!
//! The chain of causes is flattened into the text when the error is made: it has one
//! reader, the gRPC status (`instrument.rs`), and must be handed to several callers when
//! they joined the same request (`store/names.rs`), hence `Clone`.

use std::error::Error as StdError;
use std::fmt::{self, Display};

use spec::Kind;

/// A failed verb or step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// A cause whose kind is known.
pub(crate) trait Cause: Display {
    /// What sort of failure it is.
    fn kind(&self) -> Kind;
    /// The cause and what lies beneath it, in one line.
    fn chain(&self) -> String;
}

/// `error: cause: cause of the cause`, without saying anything twice.
pub(crate) fn chain_of(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

macro_rules! cause {
    ($ty:ty, $self:ident => $kind:expr) => {
        impl Cause for $ty {
            fn kind(&self) -> Kind {
                let $self = self;
                $kind
            }
            fn chain(&self) -> String {
                chain_of(self)
            }
        }
    };
}

cause!(std::io::Error, e => Kind::of_io(e));
cause!(rustix::io::Errno, e => Kind::of_io(&std::io::Error::from(*e)));
cause!(rusqlite::Error, e => match e.sqlite_error_code() {
    Some(rusqlite::ErrorCode::DiskFull) => Kind::ResourceExhausted,
    Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => Kind::DataLoss,
    _ => Kind::Internal,
});
cause!(serde_json::Error, e => if e.is_io() { Kind::Internal } else { Kind::DataLoss });
cause!(prost::DecodeError, _e => Kind::DataLoss);
cause!(proto::frame::BadFrame, e => match e {
    // Ours are long only where the caller's arguments and environment are.
    proto::frame::BadFrame::TooLong(_) => Kind::InvalidArgument,
    proto::frame::BadFrame::Garbled(_) => Kind::Internal,
});
cause!(image::Error, e => e.kind());
cause!(cni_invoke::Error, e => e.kind());
cause!(cgroup::Error, e => e.kind());
cause!(cni_netlink::Error, e => match e.errno() {
    Some(errno) => Kind::of_io(&std::io::Error::from_raw_os_error(errno)),
    None => Kind::Internal,
});
cause!(Error, e => e.kind);

impl Error {
    /// An error of `kind`; `message` says what, where and what to do.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The caller asked for something malformed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// What was named does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// The object is in the wrong state for the verb.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Kind::FailedPrecondition, message)
    }

    /// This build or host cannot do it.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Kind::Unimplemented, message)
    }

    /// `op object: cause`, with the kind of the cause.
    pub(crate) fn at<C: Cause>(op: &str, object: impl Display, cause: &C) -> Self {
        Self {
            kind: cause.kind(),
            message: format!("{op} {object}: {}", cause.chain()),
        }
    }

    /// The same error, said to have happened during `op` on `object`.
    #[must_use]
    pub(crate) fn during(mut self, op: &str, object: impl Display) -> Self {
        self.message = format!("{op} {object}: {}", self.message);
        self
    }

    /// The same error with another kind.
    #[must_use]
    pub(crate) fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same error with a sentence after it.
    #[must_use]
    pub(crate) fn and(mut self, more: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(more);
        self
    }

    /// Its sort.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {}

impl From<Error> for stream::BackendError {
    fn from(error: Error) -> Self {
        Self {
            kind: error.kind,
            message: error.message,
        }
    }
}

/// A status travels in a header, and a client that gets a longer one ends the whole connection, with
/// every call of every other caller on it (hyper takes 16 KiB of headers; the text is escaped).
pub(crate) const LONGEST_MESSAGE: usize = 4096;

/// `text`, its middle left out where it is too long: what was done is said first, the cause last.
pub(crate) fn cut(text: &str, longest: usize) -> std::borrow::Cow<'_, str> {
    // As long as it is on the wire: what is not printable ASCII becomes %XX.
    let weight = |c: char| {
        if c == ' ' || c.is_ascii_graphic() && c != '%' {
            1
        } else {
            3 * c.len_utf8()
        }
    };
    if text.chars().map(weight).sum::<usize>() <= longest {
        return text.into();
    }
    let part = |chars: &mut dyn Iterator<Item = char>, mut room: usize| -> usize {
        chars
            .take_while(|c| {
                let fits = weight(*c) <= room;
                room -= if fits { weight(*c) } else { 0 };
                fits
            })
            .map(char::len_utf8)
            .sum()
    };
    let head = part(&mut text.chars(), longest * 3 / 4);
    let tail = part(&mut text[head..].chars().rev(), longest / 4 - 20);
    format!("{} [...] {}", &text[..head], &text[text.len() - tail..]).into()
}

/// The gRPC code of a kind: the only place where one becomes the other.
impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        use tonic::Code;
        let code = match error.kind {
            Kind::InvalidArgument => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::AlreadyExists => Code::AlreadyExists,
            Kind::FailedPrecondition => Code::FailedPrecondition,
            Kind::PermissionDenied => Code::PermissionDenied,
            Kind::Unauthenticated => Code::Unauthenticated,
            Kind::ResourceExhausted => Code::ResourceExhausted,
            Kind::Unavailable => Code::Unavailable,
            Kind::DeadlineExceeded => Code::DeadlineExceeded,
            Kind::Aborted => Code::Aborted,
            Kind::Unimplemented => Code::Unimplemented,
            Kind::DataLoss => Code::DataLoss,
            Kind::Internal => Code::Internal,
        };
        Self::new(code, cut(&error.message, LONGEST_MESSAGE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_flat_and_says_nothing_twice() {
        let io = std::io::Error::from_raw_os_error(2);
        let error = Error::at("open", "/nowhere", &io);
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.to_string().matches("No such file").count(), 1, "{error}");
        assert!(error.to_string().starts_with("open /nowhere: "));
    }

    #[test]
    fn a_long_message_keeps_its_ends() {
        let exec = format!("exec {}: file name too long", "x".repeat(70_000));
        let status: tonic::Status = Error::invalid(exec).into();
        let text = status.message();
        assert!(text.len() <= LONGEST_MESSAGE, "{}", text.len());
        assert!(
            text.starts_with("exec xxx") && text.ends_with("x: file name too long"),
            "{text}"
        );
        // On the wire each of these takes twelve bytes.
        let status: tonic::Status = Error::invalid("🚢".repeat(2000)).into();
        assert!(status.message().chars().count() * 12 < LONGEST_MESSAGE + 100);
        assert_eq!(cut("short", 100), "short");
    }

    #[test]
    fn a_kind_becomes_its_code() {
        let status: tonic::Status = Error::precondition("pod is not ready").into();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert_eq!(status.message(), "pod is not ready");
    }
}
