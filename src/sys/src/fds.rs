//! Descriptors by number: those that a parent has left for this process.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd, IntoRawFd as _, OwnedFd, RawFd};

use crate::call::check;

/// Takes over descriptor `number`, which whoever started this program left open for it, and makes it close-on-exec. To be
/// called once, before anything else opens descriptors.
///
/// # Errors
/// EBADF where there is none.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes an integer and touches no memory.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open (checked above) and, by this function's contract, nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Moves `fd` to `number`, which others may own, and closes all descriptors above `last`, whoever owns them: for a forked
/// child that never returns into its parent's frames and whose inherited values are therefore never dropped.
///
/// # Errors
/// What dup3(2) and close_range(2) say; `InvalidInput` where `fd` has a number below already.
pub fn keep_only(fd: OwnedFd, number: RawFd, last: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() <= number {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: both are plain numbers; what `number` was before is closed by the kernel.
    check(unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) })?;
    let _closed_below = fd.into_raw_fd();
    crate::process::close_from(last.cast_unsigned() + 1)?;
    // SAFETY: dup3 has just made it; what was there before is closed and, by contract, never dropped.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Moves `fd` to `number`, where forked children will look for it.
///
/// # Errors
/// EBUSY where `number` is taken; what dup3(2) says.
pub fn place(fd: OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() == number {
        return Ok(fd);
    }
    // SAFETY: F_GETFD touches no memory.
    if check(unsafe { libc::fcntl(number, libc::F_GETFD) }).is_ok() {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: both are plain numbers, and nothing is open at `number` (checked above).
    check(unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) })?;
    // SAFETY: dup3 has just made it, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes descriptors 0, 1 and 2, whoever owns them: for a forked child that nobody shall wait for at their other ends.
///
/// # Errors
/// What close_range(2) says.
pub fn close_standard() -> io::Result<()> {
    // SAFETY: integers only; the child speaks to nobody by these numbers any more.
    check(unsafe { libc::close_range(0, 2, 0) }).map(drop)
}
