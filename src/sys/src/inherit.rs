//! Hands one descriptor to a program that is about to be started, under a number that the
//! program knows.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets `command`'s program find `fd` as descriptor `number`. Every other descriptor of
/// this process is close-on-exec, so that it gets nothing else beside its stdio.
///
/// The program file must not itself be named by `/proc/self/fd/<number>`.
pub fn inherit(command: &mut Command, fd: OwnedFd, number: RawFd) {
    let install = move || {
        let source = fd.as_raw_fd();
        let result = if source == number {
            // dup2 onto itself would leave close-on-exec set.
            // SAFETY: fcntl(F_SETFD) on a descriptor that this closure owns; no pointers.
            unsafe { libc::fcntl(number, libc::F_SETFD, 0) }
        } else {
            // SAFETY: dup2 takes two numbers; in this forked child nobody else owns `number`.
            unsafe { libc::dup2(source, number) }
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: the closure runs between fork and exec and only makes one async-signal-safe
    // system call: no allocation (last_os_error reads errno), no lock.
    unsafe { command.pre_exec(install) };
}
