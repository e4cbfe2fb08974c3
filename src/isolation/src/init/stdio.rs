//! Descriptors 0, 1 and 2.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use sys::path::file_type;

use crate::plan::process::Process;
use crate::plan::userns::Maps;
use crate::{Error, Stdio};

/// Puts the pipes or the terminal in place. The session has been made before.
pub(super) fn install(stdio: Stdio, console: Option<OwnedFd>, process: &Process) -> Result<(), Error> {
    let [stdin, stdout, stderr] = match (stdio, console) {
        (Stdio::Pipes { stdin, stdout, stderr }, _) => [above(stdin)?, above(stdout)?, above(stderr)?],
        (Stdio::Terminal, Some(slave)) => {
            sys::tty::set_controlling(slave.as_fd()).map_err(Error::sys("take", "the terminal"))?;
            let copy = || slave.try_clone().map_err(Error::sys("duplicate", "the terminal"));
            [above(copy()?)?, above(copy()?)?, above(copy()?)?]
        }
        (Stdio::Terminal, None) => return Err(Error::state("the terminal", "was not made")),
    };
    for fd in [&stdin, &stdout, &stderr] {
        give(fd, process)?;
    }
    dup2_stdin(stdin).map_err(Error::sys("install", "stdin"))?;
    dup2_stdout(stdout).map_err(Error::sys("install", "stdout"))?;
    dup2_stderr(stderr).map_err(Error::sys("install", "stderr"))
}

/// The descriptor with a number above 2: else putting one in place could close the next.
fn above(fd: OwnedFd) -> Result<OwnedFd, Error> {
    if fd.as_raw_fd() > 2 {
        Ok(fd)
    } else {
        rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(Error::sys("duplicate", "a standard stream"))
    }
}

/// Gives the pipes to the user on the host's side, before a user namespace is entered: nobody in there can.
pub(crate) fn give_ahead(stdio: &Stdio, process: &Process, maps: &Maps) -> Result<(), Error> {
    let (uid, gid) = maps
        .host_uid(process.uid)
        .zip(maps.host_gid(process.gid))
        .ok_or_else(|| Error::invalid("process.user", "is not mapped"))?;
    for fd in stdio.fds() {
        let kind = file_type(fd).map_err(Error::sys("stat", "a standard stream"))?;
        if kind == FileType::Fifo {
            fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(Error::sys("hand over", "a standard stream"))?;
        }
    }
    Ok(())
}

/// A pipe or a terminal belongs to the user, so that `/dev/stdout` opens. Nothing else changes hands: a file or device
/// may be the host's (CVE-2026-88265).
fn give(fd: &OwnedFd, process: &Process) -> Result<(), Error> {
    if process.uid == 0 {
        return Ok(());
    }
    let kind = file_type(fd.as_fd()).map_err(Error::sys("stat", "a standard stream"))?;
    let terminal = kind == FileType::CharacterDevice
        && sys::tty::is_devpts(fd.as_fd()).map_err(Error::sys("stat", "a standard stream"))?;
    let owner = fstat(fd).map_err(Error::sys("stat", "a standard stream"))?.st_uid;
    if (kind == FileType::Fifo || terminal) && owner != process.uid {
        fchown(fd, Some(Uid::from_raw(process.uid)), None).map_err(Error::sys("hand over", "a standard stream"))?;
    }
    Ok(())
}
