//! How a container ended: the verdict, and the record that outlives this process.
//!
//! OOMKilled is said when the first process died of SIGKILL and the OOM killer's counter of the container's own cgroup has
//! grown by more than the kills that this process outlived (`oom`); or when it, a shell that passes on what happened to its
//! last child, ended with code 137 and the counter has grown since the start. A child that was killed while the first
//! process lived on is a counter, no verdict.

use std::io::Write as _;
use std::os::fd::OwnedFd;

use proto::monitor::Exited;
use rustix::fs::{Mode, OFlags, openat, renameat};
use spec::{ExitReason, ExitRecord};
use sys::process::Exit;

use crate::error::Error;

const SIGKILL: i32 = 9;

/// What the OOM killer did in the container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kills {
    /// Since the container was made.
    pub(crate) all: u64,
    /// Without those that the first process outlived.
    pub(crate) unexplained: u64,
}

/// The end of a container that ran.
pub(crate) fn verdict(exit: Exit, kills: Kills, started_at: i64, finished_at: i64) -> ExitRecord {
    let (exit_code, signal) = match exit {
        Exit::Code(code) => (code, 0),
        Exit::Signal(signal) => (128 + signal, signal),
    };
    let oom_killed = match exit {
        Exit::Signal(SIGKILL) => kills.unexplained > 0,
        Exit::Code(code) => code == 128 + SIGKILL && kills.all > 0,
        Exit::Signal(_) => false,
    };
    let reason = match exit_code {
        _ if oom_killed => ExitReason::OomKilled,
        0 => ExitReason::Completed,
        _ => ExitReason::Error,
    };
    // A clock that was set back must not make a container end before it began.
    let finished_at = finished_at.max(started_at);
    ExitRecord {
        exit_code,
        signal,
        started_at,
        finished_at,
        oom_killed,
        reason,
        message: String::new(),
    }
}

/// The end of one that never reached execve.
pub(crate) fn start_error(message: String, finished_at: i64) -> ExitRecord {
    let reason = ExitReason::StartError;
    ExitRecord {
        exit_code: 128,
        signal: 0,
        started_at: 0,
        finished_at,
        oom_killed: false,
        reason,
        message,
    }
}

/// Writes the record: temporary file, rename. No fsync: /run does not outlive the kernel.
pub(crate) fn write(state_dir: &OwnedFd, record: &ExitRecord) -> Result<(), Error> {
    let at = |op| move |error: std::io::Error| Error::io(op, spec::exit::FILE, error);
    let text = serde_json::to_vec(record).map_err(|error| at("encode")(error.into()))?;
    let temporary = "exit.json.tmp";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        openat(state_dir, temporary, flags, Mode::from_raw_mode(0o600)).map_err(|errno| at("make")(errno.into()))?;
    std::fs::File::from(file).write_all(&text).map_err(at("write"))?;
    renameat(state_dir, temporary, state_dir, spec::exit::FILE).map_err(|errno| at("rename")(errno.into()))
}

/// The record as events and replies carry it.
pub(crate) fn to_wire(record: &ExitRecord, warnings: &[String]) -> Exited {
    Exited {
        exit_code: record.exit_code,
        signal: record.signal,
        finished_at: record.finished_at,
        oom_killed: record.oom_killed,
        started_at: record.started_at,
        reason: record.reason.as_str().to_owned(),
        message: record.message.clone(),
        warnings: warnings.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let of = |exit, all| {
            let kills = Kills { all, unexplained: all };
            let record = verdict(exit, kills, 5, 9);
            (record.exit_code, record.reason, record.oom_killed)
        };
        assert_eq!(of(Exit::Code(0), 0), (0, ExitReason::Completed, false));
        assert_eq!(of(Exit::Code(0), 3), (0, ExitReason::Completed, false));
        assert_eq!(of(Exit::Code(7), 1), (7, ExitReason::Error, false));
        assert_eq!(of(Exit::Signal(9), 0), (137, ExitReason::Error, false));
        assert_eq!(of(Exit::Signal(9), 1), (137, ExitReason::OomKilled, true));
        assert_eq!(of(Exit::Code(137), 1), (137, ExitReason::OomKilled, true));
        assert_eq!(of(Exit::Signal(15), 1), (143, ExitReason::Error, false));
        let outlived = Kills { all: 2, unexplained: 0 };
        assert_eq!(verdict(Exit::Signal(9), outlived, 5, 9).reason, ExitReason::Error);
        assert_eq!(verdict(Exit::Code(0), outlived, 9, 5).finished_at, 9);
    }
}
