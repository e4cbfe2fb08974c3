//! What can go wrong with a network, by whose fault.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use cni_types::Code;
use spec::Kind;

/// A failure to attach, detach or check.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable configuration: the node's network is not ready.
    #[error("{}", no_config(dir, name.as_deref(), problems))]
    NoConfig {
        /// Where it was looked for.
        dir: PathBuf,
        /// The network that was wanted.
        name: Option<String>,
        /// What is wrong with the files there.
        problems: Vec<String>,
    },
    /// The caller asked for something malformed.
    #[error("network attachment: {0}")]
    Attachment(String),
    /// A plugin of the network is not installed.
    #[error("CNI plugin {plugin:?} of network {network:?} is in none of [{}]", paths(dirs))]
    Missing {
        /// The plugin.
        plugin: String,
        /// Its network.
        network: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// A plugin did not answer in time; it and all it started were killed.
    #[error("CNI plugin {plugin:?} of network {network:?}: {command} did not end within {after:?} and was killed")]
    Timeout {
        /// The plugin.
        plugin: String,
        /// Its network.
        network: String,
        /// The verb.
        command: &'static str,
        /// Its deadline.
        after: Duration,
    },
    /// A plugin refused, with its own code and words.
    #[error("CNI plugin {plugin:?} of network {network:?}: {command} failed (code {}): {source}", source.code)]
    Plugin {
        /// The plugin.
        plugin: String,
        /// Its network.
        network: String,
        /// The verb.
        command: &'static str,
        /// What it said.
        source: Box<cni_types::Error>,
    },
    /// A plugin answered with something that is no CNI answer.
    #[error("CNI plugin {plugin:?} of network {network:?}: {command}: {why}; it printed {printed:?}")]
    Rubbish {
        /// The plugin.
        plugin: String,
        /// Its network.
        network: String,
        /// The verb.
        command: &'static str,
        /// What is wrong with it.
        why: String,
        /// The first of what it printed, standard error where standard output was empty.
        printed: String,
    },
    /// A file or a process.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// The configuration is too old for the verb.
    #[error("network {network:?}: CNI version {version} has no {command}")]
    Version {
        /// The network.
        network: String,
        /// Its version.
        version: cni_types::Version,
        /// The verb.
        command: &'static str,
    },
    /// Something failed, and so did undoing it; the record stays, so that DEL can be repeated.
    #[error("{first}; and undoing it failed: {second}")]
    NotUndone {
        /// The failure.
        first: Box<Error>,
        /// The undo's.
        second: Box<Error>,
    },
}

fn paths(dirs: &[PathBuf]) -> String {
    dirs.iter()
        .map(|dir| dir.display().to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

fn no_config(dir: &std::path::Path, name: Option<&str>, problems: &[String]) -> String {
    let wanted = name.map(|name| format!(" of the name {name:?}")).unwrap_or_default();
    let mut text = format!(
        "cni config uninitialized: no usable network configuration{wanted} in {}",
        dir.display()
    );
    for problem in problems {
        text.push_str("; ");
        text.push_str(problem);
    }
    text
}

impl Error {
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoConfig { .. } | Self::Missing { .. } => Kind::FailedPrecondition,
            Self::Attachment(_) => Kind::InvalidArgument,
            Self::Timeout { .. } => Kind::DeadlineExceeded,
            Self::Version { .. } => Kind::Unimplemented,
            Self::Io { source, .. } => Kind::of_io(source),
            Self::Rubbish { .. } => Kind::Internal,
            Self::NotUndone { first, .. } => first.kind(),
            Self::Plugin { source, .. } => {
                let is = |code: Code| source.code == code.number();
                if is(Code::TryAgain) {
                    Kind::ResourceExhausted
                } else if is(Code::NotAvailable) || is(Code::LimitedConnectivity) {
                    Kind::Unavailable
                } else {
                    Kind::Internal
                }
            }
        }
    }
}
