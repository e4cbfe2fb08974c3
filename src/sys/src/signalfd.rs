//! Signals as a descriptor, for an event loop.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::call::check;

/// Blocks `signals` for this thread and returns a descriptor (close-on-exec, non-blocking) that becomes readable when one
/// is pending; [`drain`] takes them. A child inherits the mask, not the descriptor's meaning: it opens its own.
///
/// # Errors
/// What sigprocmask(2) and signalfd(2) say.
pub fn open(signals: &[i32]) -> io::Result<OwnedFd> {
    crate::signal::block(signals)?;
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set behind the pointer.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signal in signals {
        // SAFETY: the set is initialised; a number that is no signal is refused without effect.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: the set is initialised and outlives the call; -1 asks for a new descriptor.
    let fd = check(unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes all pending signals off the descriptor.
pub fn drain(fd: &OwnedFd) {
    let mut buffer = [0u8; 4 * size_of::<libc::signalfd_siginfo>()];
    while matches!(rustix::io::read(fd, &mut buffer), Ok(count) if count > 0) {}
}
