//! Pseudo-terminals. The slave comes from its master (`TIOCGPTPEER`), never from a path that could be a link
//! (CVE-2025-52565), and both are asked whether they are what they claim.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::path;

const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// A new terminal of the devpts instance mounted at `devpts`: master and slave, both close-on-exec.
///
/// # Errors
/// What openat2(2) and the ioctls say; `InvalidData` where `ptmx` there is no multiplexer of a devpts.
pub fn open_pair(devpts: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = path::openat2(devpts, "ptmx", flags, resolve)?;
    if !is_devpts(master.as_fd())? || !path::is_char_device(&rustix::fs::fstat(&master)?, 5, 2) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "ptmx is not the multiplexer of a devpts",
        ));
    }
    rustix::pty::unlockpt(&master)?;
    let slave =
        rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    if !is_devpts(slave.as_fd())? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the terminal is not on a devpts",
        ));
    }
    Ok((master, slave))
}

/// Whether the file behind `fd` lies on a devpts.
///
/// # Errors
/// What fstatfs(2) says.
pub fn is_devpts(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64 == DEVPTS_SUPER_MAGIC)
}

/// Makes `tty` the controlling terminal of this session leader.
///
/// # Errors
/// EPERM for a process that leads no session or has a terminal.
pub fn set_controlling(tty: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(tty)?)
}

/// Tells the terminal its size.
///
/// # Errors
/// What ioctl(2) says.
pub fn set_size(tty: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    Ok(rustix::termios::tcsetwinsize(
        tty,
        Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?)
}

/// Columns and rows of the terminal.
///
/// # Errors
/// What ioctl(2) says.
pub fn size(tty: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(tty)?;
    Ok((size.ws_col, size.ws_row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Context;

    #[test]
    fn a_pair_of_a_private_devpts_talks() {
        let context = Context::open("devpts").unwrap();
        context.set("ptmxmode", "0666").unwrap();
        let devpts = context.mount(0).unwrap();
        let (master, slave) = open_pair(devpts.as_fd()).unwrap();
        set_size(master.as_fd(), 132, 43).unwrap();
        assert_eq!(size(slave.as_fd()).unwrap(), (132, 43));
        rustix::io::write(&slave, b"hello\n").unwrap();
        let mut buf = [0; 16];
        let n = rustix::io::read(&master, &mut buf).unwrap();
        assert_eq!(&buf[..n], b"hello\r\n");
    }

    #[test]
    fn a_directory_with_another_ptmx_is_refused() {
        let dir = std::env::temp_dir().join(format!("bulkhead-tty-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("ptmx"), b"").unwrap();
        let fd = path::Root::open(&dir).unwrap();
        let error = open_pair(fd.as_fd()).unwrap_err();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
