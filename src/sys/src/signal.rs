//! Signals: back to the defaults before execve; waiting for them in a process that does nothing else; children that
//! nobody waits for.

use std::io;

use crate::call::check;

/// Sets every signal to its default action and unblocks all: what a program expects to be started with. (Rust's
/// runtime ignores SIGPIPE; a monitor blocks what it reads from a signalfd.)
///
/// # Errors
/// What sigprocmask(2) says.
pub fn reset() -> io::Result<()> {
    // The kernel's own structure, all zero: SIG_DFL, no flags, empty mask. libc's wrapper would leave out the two
    // signals that it keeps to itself, which somebody up the line may have ignored.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        let old: *mut u64 = std::ptr::null_mut();
        // SIGKILL and SIGSTOP answer EINVAL: they have no other action anyway.
        // SAFETY: `default` is as large as the kernel's sigaction and outlives the call; SIG_DFL runs no code of ours.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, size_of::<u64>()) };
    }
    change_mask(libc::SIG_SETMASK, &[])
}

/// Whether the children of this process are waited for; those that are not go by themselves (sigaction(2), SIGCHLD set to
/// SIG_IGN), and a child inherits that.
///
/// # Errors
/// None that sigaction(2) names.
pub fn wait_for_children(whether: bool) -> io::Result<()> {
    let action = if whether { libc::SIG_DFL } else { libc::SIG_IGN };
    // SAFETY: neither action runs code of ours.
    match unsafe { libc::signal(libc::SIGCHLD, action) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Blocks `signals`, so that [`wait`] can take them.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn block(signals: &[i32]) -> io::Result<()> {
    change_mask(libc::SIG_BLOCK, signals)
}

/// Waits for one of `signals`, which are blocked.
///
/// # Errors
/// What sigwaitinfo(2) says, except EINTR.
pub fn wait(signals: &[i32]) -> io::Result<i32> {
    let set = set_of(signals);
    loop {
        // SAFETY: the set is initialised and outlives the call; a null siginfo is allowed.
        match check(unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set behind the pointer.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signal in signals {
        // SAFETY: the set is initialised; a number that is no signal is refused without effect.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: initialised by sigemptyset above.
    unsafe { set.assume_init() }
}

fn change_mask(how: libc::c_int, signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: the set is initialised and outlives the call; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(how, &raw const set, std::ptr::null_mut()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    #[test]
    fn reset_brings_sigpipe_back() {
        let child = process::fork(|| {
            if reset().is_err() {
                return 1;
            }
            // SAFETY: raise sends a signal to this thread; no memory is involved.
            unsafe { libc::raise(libc::SIGPIPE) };
            2
        })
        .unwrap();
        assert_eq!(process::wait(child).unwrap(), process::Exit::Signal(libc::SIGPIPE));
    }

    #[test]
    fn a_child_that_nobody_waits_for_goes_by_itself() {
        let parent = process::fork(|| {
            let ended = |wait| {
                wait_for_children(wait)?;
                let child = process::fork(|| 3)?;
                process::wait(child)
            };
            let gone = ended(false).map_err(|error| error.raw_os_error());
            u8::from(gone != Err(Some(libc::ECHILD)) || ended(true).ok() != Some(process::Exit::Code(3)))
        })
        .unwrap();
        assert_eq!(process::wait(parent).unwrap(), process::Exit::Code(0));
    }

    #[test]
    fn a_blocked_signal_is_waited_for() {
        let child = process::fork(|| {
            if block(&[libc::SIGTERM]).is_err() {
                return 1;
            }
            // SAFETY: raise sends a signal to this thread; no memory is involved.
            unsafe { libc::raise(libc::SIGTERM) };
            u8::from(wait(&[libc::SIGTERM, libc::SIGCHLD]).ok() != Some(libc::SIGTERM))
        })
        .unwrap();
        assert_eq!(process::wait(child).unwrap(), process::Exit::Code(0));
    }
}
