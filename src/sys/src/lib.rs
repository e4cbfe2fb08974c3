//! Thin system calls: descriptors in, descriptors out, `std::io::Error` back.
//!
//! The only crate with unsafe code. One file an area; a function does one system call (or the one loop that
//! its interface needs: EINTR, EAGAIN of `openat2`) and decides nothing. What rustix wraps is used from there;
//! here is the rest: clone3, `mount_setattr`, seccomp, capabilities, ioctls.
//!
//! May use: no crate of ours.

#![expect(unsafe_code, reason = "this crate exists so that the others need none")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the kernel's interfaces mix signed and unsigned words of the same value range everywhere"
)]

pub mod bpf;
pub mod cap;
pub mod cmsg;
pub mod cred;
pub mod fds;
pub mod inherit;
pub mod keyring;
pub mod malloc;
pub mod memory;
pub mod mount;
pub mod netif;
pub mod ns;
pub mod path;
pub mod prctl;
pub mod process;
pub mod procfs;
pub mod rlimit;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod signalfd;
pub mod tty;

mod call;
