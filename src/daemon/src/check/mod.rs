//! What this host offers and what is missing. Only looks; changes nothing, and needs no
//! root: what it may not see is reported as not seen.
//!
//! One file an area, each a list of findings. What is judged is text of /proc and /sys, so
//! that the judging is tested with the text of other hosts.

mod cgroups;
mod filesystem;
mod kernel;
mod network;
mod security;

use std::fmt;
use std::path::Path;

use config::Config;
use serde::Serialize;

/// How a finding bears on the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Something cannot be had, or is not set up yet.
    Warn,
    /// Containers cannot run, or not safely.
    Missing,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "missing",
        })
    }
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    /// What was found.
    pub(crate) found: String,
    /// What follows; empty where nothing does.
    pub(crate) consequence: String,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Ok,
            found: found.into(),
            consequence: String::new(),
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, consequence: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Warn,
            found: found.into(),
            consequence: consequence.into(),
        }
    }

    fn missing(name: &'static str, found: impl Into<String>, consequence: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Missing,
            found: found.into(),
            consequence: consequence.into(),
        }
    }
}

/// Everything, in the order in which it is printed.
pub(crate) fn all(config: &Config) -> Vec<Finding> {
    [
        kernel::findings(config),
        cgroups::findings(),
        filesystem::findings(config),
        security::findings(),
        network::findings(config),
    ]
    .concat()
}

/// The text of a file of /proc or /sys; `None` where it is not there or may not be read.
fn text(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}
