//! What goes to stderr, in crictl's form: short on a terminal, `time= level= msg=` elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

/// An exec'd process ended with this code; nothing is to be said about it.
#[derive(Debug, thiserror::Error)]
#[error("command terminated with exit code {0}")]
pub(crate) struct Exited(pub(crate) u8);

/// The pipe that stdout was has been closed: the end, not an error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Prints an error; the exit code that it means.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    if let Some(Exited(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    if !is_broken_pipe(error) {
        self::error(&format!("{error:#}"));
    }
    ExitCode::FAILURE
}

pub(crate) fn error(message: &str) {
    line("ERRO", "error", message);
}

pub(crate) fn warn(message: &str) {
    line("WARN", "warning", message);
}

pub(crate) fn info(message: &str) {
    line("INFO", "info", message);
}

fn line(short: &str, level: &str, message: &str) {
    let mut stderr = std::io::stderr().lock();
    let written = if stderr.is_terminal() {
        writeln!(stderr, "{short}[0000] {message}")
    } else {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        writeln!(stderr, "time=\"{now}\" level={level} msg={message:?}")
    };
    // There is nowhere else to say it.
    written.ok();
}
