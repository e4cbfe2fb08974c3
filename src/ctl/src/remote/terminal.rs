//! This side's terminal: raw while a session has it, its size, and a password without echo.

use std::io::{BufRead as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// Puts stdin's terminal back into its former mode when dropped.
#[derive(Debug)]
pub(crate) struct Restore {
    terminal: OwnedFd,
    mode: Termios,
}

impl Restore {
    fn change(change: impl FnOnce(&mut Termios)) -> Result<Self> {
        let terminal = std::io::stdin().as_fd().try_clone_to_owned().context("terminal")?;
        let mode = termios::tcgetattr(&terminal).context("terminal mode")?;
        let mut other = mode.clone();
        change(&mut other);
        termios::tcsetattr(&terminal, OptionalActions::Now, &other).context("terminal mode")?;
        Ok(Self { terminal, mode })
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that has gone needs no mode.
        termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.mode).ok();
    }
}

/// Whether stdin is a terminal.
pub(crate) fn is_there() -> bool {
    termios::isatty(std::io::stdin())
}

/// Every key goes to the process, until the answer is dropped.
pub(crate) fn raw() -> Result<Restore> {
    Restore::change(Termios::make_raw)
}

/// Columns and rows.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(std::io::stdin()).ok()?;
    Some((size.ws_col, size.ws_row))
}

/// Asks for a password.
pub(crate) fn ask_password(prompt: &str) -> Result<String> {
    let mut stderr = std::io::stderr();
    write!(stderr, "{prompt}")?;
    stderr.flush()?;
    let quiet = if is_there() {
        Some(Restore::change(|mode| mode.local_modes.remove(LocalModes::ECHO))?)
    } else {
        None
    };
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    drop(quiet);
    writeln!(stderr)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
