//! Pipes for a process' stdio.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;

/// Two sets of ends: what the process gets, and what stays here (or goes to the daemon).
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) process: [OwnedFd; 3],
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Three pipes, or two and /dev/null for stdin. Blocking, close-on-exec: who keeps an end sets what it needs.
pub(crate) fn pipes(with_stdin: bool) -> Result<Ends, Error> {
    let make = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::io("make", "a pipe for stdio", errno.into()));
    let (stdin, stdin_ours) = if with_stdin {
        let (read, write) = make()?;
        (read, Some(write))
    } else {
        (null()?, None)
    };
    let (stdout_ours, stdout) = make()?;
    let (stderr_ours, stderr) = make()?;
    Ok(Ends {
        process: [stdin, stdout, stderr],
        stdin: stdin_ours,
        stdout: stdout_ours,
        stderr: stderr_ours,
    })
}

/// /dev/null, for a process without input.
fn null() -> Result<OwnedFd, Error> {
    openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::io("open", "/dev/null", errno.into()))
}
