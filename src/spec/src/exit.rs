//! The record of a container's end. The monitor writes it (temporary file, rename) before
//! it tells anyone; a daemon that was down reads it later.

use serde::{Deserialize, Serialize};

/// File name of the record in the monitor's state directory.
pub const FILE: &str = "exit.json";

/// File name of the monitor's listening socket in its state directory.
pub const SOCKET: &str = "monitor.sock";

/// Why a container ended, in the words that CRI clients look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Any other code.
    Error,
    /// The first process died of the OOM killer of its own cgroup.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// It never reached execve: code 128, `started_at` 0.
    StartError,
    /// The monitor was lost (reboot, SIGKILL): code 255.
    Unknown,
}

impl ExitReason {
    /// The reason as CRI's ContainerStatus.reason carries it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

/// How, when and why a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// 0..=255; 128 + signal where a signal ended it.
    pub exit_code: i32,
    /// The signal, or 0.
    #[serde(default)]
    pub signal: i32,
    /// Nanoseconds since the epoch; 0 where it never started.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    /// The verdict of the container's own cgroup, counted from the start.
    pub oom_killed: bool,
    /// Why.
    pub reason: ExitReason,
    /// What failed, where `reason` is `StartError`; else empty.
    #[serde(default)]
    pub message: String,
}
