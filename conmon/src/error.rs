//! What a request can fail with, and how that travels to the daemon.

use std::error::Error as _;
use std::io;

use proto::monitor::Failure;
use spec::Kind;
use thiserror::Error as ThisError;

/// A failed verb.
#[derive(Debug, ThisError)]
pub(crate) enum Error {
    /// A system call.
    #[error("{op} {object}")]
    Io {
        op: &'static str,
        object: String,
        source: io::Error,
    },
    /// The verb does not fit what the monitor is doing, or makes no sense.
    #[error("{message}")]
    State { kind: Kind, message: String },
    /// The container could not be made, started or entered.
    #[error("{0}")]
    Isolation(isolation::Error),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
}

impl From<isolation::Error> for Error {
    fn from(error: isolation::Error) -> Self {
        Self::Isolation(error)
    }
}

impl Error {
    pub(crate) fn io(op: &'static str, object: impl ToString, source: io::Error) -> Self {
        Self::Io {
            op,
            object: object.to_string(),
            source,
        }
    }

    pub(crate) fn state(kind: Kind, message: impl Into<String>) -> Self {
        Self::State {
            kind,
            message: message.into(),
        }
    }

    /// The verb came at the wrong time.
    pub(crate) fn too_early_or_late(message: impl Into<String>) -> Self {
        Self::state(Kind::FailedPrecondition, message)
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Io { source, .. } => Kind::of_io(source),
            Self::State { kind, .. } => *kind,
            Self::Isolation(error) => error.kind(),
            Self::Cgroup(error) => error.kind(),
        }
    }

    /// Outermost first.
    pub(crate) fn chain(&self) -> Vec<String> {
        if let Self::Isolation(error) = self {
            return error.chain();
        }
        let mut chain = vec![self.to_string()];
        let mut cause = self.source();
        while let Some(error) = cause {
            chain.push(error.to_string());
            cause = error.source();
        }
        chain
    }

    pub(crate) fn to_wire(&self) -> Failure {
        Failure {
            kind: self.kind().name().to_owned(),
            chain: self.chain(),
        }
    }
}
