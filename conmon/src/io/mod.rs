//! The container's stdin, stdout and stderr: our ends of them.
//!
//! Output is read as it comes, logged, and handed to the attached. Input comes from any of them and waits in a bounded
//! buffer; while it is full, nobody's input is read.

mod pipe;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

pub(crate) use pipe::pipes;

/// As much as a pipe holds.
const INPUT_LIMIT: usize = 64 * 1024;

/// The way into the container.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// The pipe's writing end, or a second descriptor of the terminal.
    fd: Option<OwnedFd>,
    is_terminal: bool,
    once: bool,
    buffer: Vec<u8>,
    close_when_empty: bool,
}

impl Input {
    pub(crate) fn new(fd: Option<OwnedFd>, is_terminal: bool, once: bool) -> Self {
        Self {
            fd,
            is_terminal,
            once,
            buffer: Vec::new(),
            close_when_empty: false,
        }
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
    }

    /// Whether clients' input may be read.
    pub(crate) fn has_room(&self) -> bool {
        self.fd.is_none() || self.buffer.len() < INPUT_LIMIT
    }

    /// Whether the container has to take something first.
    pub(crate) fn is_waiting(&self) -> bool {
        self.fd.is_some() && !self.buffer.is_empty()
    }

    /// Input from a client; without anywhere to go it is thrown away.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.fd.is_some() && !self.close_when_empty {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// A client that gave input (or might have) has none any more. A terminal has no end of input but the ^D that is typed.
    pub(crate) fn client_done(&mut self) {
        if self.once && !self.is_terminal {
            self.close_when_empty = true;
        }
    }

    /// Writes what goes without waiting. Returns a descriptor to forget when it is closed.
    pub(crate) fn flush(&mut self) -> Option<OwnedFd> {
        let fd = self.fd.as_ref()?;
        let mut written = 0;
        let mut broken = false;
        while written < self.buffer.len() {
            match rustix::io::write(fd, &self.buffer[written..]) {
                Ok(count) => written += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                // EPIPE: it has closed its stdin; EIO: the terminal is gone.
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if written == self.buffer.len() || broken {
            self.buffer = Vec::new();
        } else {
            self.buffer.drain(..written);
        }
        if broken || self.close_when_empty && self.buffer.is_empty() {
            self.fd.take()
        } else {
            None
        }
    }
}

/// Reads once; `None` when nothing is there now, 0 at the end.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Ok(count) => return Some(count),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return None,
            // EIO is how a terminal says that nobody holds its other end.
            Err(_) => return Some(0),
        }
    }
}

/// A second descriptor of the same terminal, for writing.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}
