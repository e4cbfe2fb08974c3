//! What can be wrong with a configuration. Each error names the place: file, line and key.

use std::io;
use std::path::PathBuf;

use spec::Kind;
use thiserror::Error;

use crate::origin::Origin;

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// A file or directory cannot be read.
    #[error("cannot read the configuration {path}: {source}", path = path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no YAML, or has an unknown key, a key twice, or a value of the wrong type.
    #[error("{path}:{line}: {key}: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// Dotted key, as far as it could be told.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A value that cannot be.
    #[error("{origin}: {key}: {message}")]
    Value {
        /// Where the value came from.
        origin: Origin,
        /// Dotted key.
        key: String,
        /// What is wrong, and what to do.
        message: String,
    },
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } => Kind::of_io(source),
            Self::Syntax { .. } | Self::Value { .. } => Kind::InvalidArgument,
        }
    }
}
