//! The one error of this crate: operation, object, cause, kind. It crosses processes with its chain intact (`sync`).

use std::fmt::Display;
use std::io;

use spec::Kind;

/// Why a process could not be created, joined or pinned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on an object failed.
    #[error("{op} {object}")]
    Sys {
        /// What was tried, as a verb.
        op: &'static str,
        /// On what.
        object: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The spec asks for something that makes no sense.
    #[error("{field}: {why}")]
    Invalid {
        /// The field of the spec.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The spec asks for something that this build or this host cannot do.
    #[error("{field}: {why}")]
    Unsupported {
        /// The field of the spec.
        field: String,
        /// What is missing.
        why: String,
    },
    /// Something outside the spec is not as it must be.
    #[error("{object}: {why}")]
    State {
        /// What.
        object: String,
        /// How it is.
        why: String,
    },
    /// The program could not be executed.
    #[error("exec: {program:?}: {why}")]
    Exec {
        /// The program as the spec names it.
        program: String,
        /// In words.
        why: &'static str,
        /// `NotFound` or `PermissionDenied` for what users get wrong.
        kind: Kind,
    },
    /// A hook failed.
    #[error("{field}: {path}: {why}")]
    Hook {
        /// Which one, as the spec counts.
        field: String,
        /// Its program.
        path: String,
        /// How it ended, with what it said.
        why: String,
        /// `DeadlineExceeded` where it took too long.
        kind: Kind,
    },
    /// The bundle's config.json is no runtime spec.
    #[error("parse {object}")]
    Parse {
        /// Which document.
        object: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The cgroup failed.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The seccomp profile cannot be compiled.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// What another process of ours reported.
    #[error("{}", chain.join(": "))]
    Remote {
        /// Its kind.
        kind: Kind,
        /// Its chain, outermost first.
        chain: Vec<String>,
    },
    /// The limits leave a process of ours too little memory to make the container.
    #[error("{who} was killed for want of memory; the memory limit of the container or of its pod is too low")]
    Starved {
        /// Which process.
        who: &'static str,
    },
    /// A process of ours ended without a word.
    #[error("{who} ended before it was done ({how})")]
    Died {
        /// Which process.
        who: &'static str,
        /// How it ended.
        how: String,
    },
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sys { source, .. } => Kind::of_io(source),
            Self::Invalid { .. } | Self::Parse { .. } => Kind::InvalidArgument,
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::State { .. } => Kind::FailedPrecondition,
            Self::Exec { kind, .. } | Self::Hook { kind, .. } | Self::Remote { kind, .. } => *kind,
            Self::Cgroup(error) => error.kind(),
            Self::Seccomp(error) => error.kind(),
            Self::Starved { .. } => Kind::ResourceExhausted,
            Self::Died { .. } => Kind::Internal,
        }
    }

    /// The messages of the error and its causes, outermost first.
    #[must_use]
    pub fn chain(&self) -> Vec<String> {
        if let Self::Remote { chain, .. } = self {
            return chain.clone();
        }
        let mut chain = vec![self.to_string()];
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            chain.push(error.to_string());
            cause = error.source();
        }
        chain
    }

    /// For `map_err`: the system call behind `op` on `object` failed.
    pub(crate) fn sys<E: Into<io::Error>>(op: &'static str, object: impl Display) -> impl FnOnce(E) -> Self {
        move |source| Self::Sys {
            op,
            object: object.to_string(),
            source: source.into(),
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            why: why.into(),
        }
    }

    pub(crate) fn unsupported(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported {
            field: field.into(),
            why: why.into(),
        }
    }

    pub(crate) fn state(object: impl Into<String>, why: impl Into<String>) -> Self {
        Self::State {
            object: object.into(),
            why: why.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_operation_and_cause() {
        let error = Error::sys::<io::Error>("open", "/x")(io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.chain(), ["open /x", "No such file or directory (os error 2)"]);
    }

    #[test]
    fn a_remote_error_stays_what_it_was() {
        let error = Error::Remote {
            kind: Kind::NotFound,
            chain: vec!["a".into(), "b".into()],
        };
        assert_eq!(
            (error.kind(), error.chain(), error.to_string()),
            (Kind::NotFound, vec!["a".to_owned(), "b".to_owned()], "a: b".to_owned())
        );
    }
}
