//! What a plugin fails with, and the CNI error object it becomes.

use std::io;
use std::path::{Path, PathBuf};

use cni_types::{Code, Error};

/// A failure of a plugin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// One that has its words and its code already.
    #[error("{0}")]
    Cni(#[from] Error),
    /// The kernel's network tables.
    #[error("{0}")]
    Net(#[from] cni_netlink::Error),
    /// A file.
    #[error("{op} {}: {source}", path.display())]
    File {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// A failure with a reserved code.
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        Self::Cni(Error::new(code, text))
    }

    /// A failure that has no code of its own.
    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Self::new(Code::Internal, text)
    }

    /// A configuration that makes no sense.
    pub(crate) fn config(text: impl Into<String>) -> Self {
        Self::new(Code::InvalidConfig, text)
    }

    /// For `map_err` after a file operation.
    pub(crate) fn file<E: Into<io::Error>>(op: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            op,
            path,
            source: source.into(),
        }
    }

    /// The error object for the caller.
    pub(crate) fn into_cni(self, plugin: &str) -> Error {
        let text = format!("{plugin}: {self}");
        match self {
            Self::Cni(error) => Error {
                msg: format!("{plugin}: {}", error.msg),
                ..error
            },
            Self::Net(_) => Error::new(Code::Internal, text),
            Self::File { .. } => Error::new(Code::Io, text),
        }
    }
}

/// Runs the undo of a failed step and adds its own failure to the words of the first.
pub(crate) fn undone(first: Fault, undo: Result<()>) -> Fault {
    match undo {
        Ok(()) => first,
        Err(second) => Fault::internal(format!("{first}; and undoing it failed: {second}")),
    }
}
