//! Whole processes, as root on a real kernel: each case makes a container from a busybox root filesystem, asks it
//! from inside what it is, and leaves nothing behind (checked when the fixture goes).

#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "all of this program is tests"
)]

mod create;
mod exec;
mod fixture;
mod hooks;
mod hostile;
mod identity;
mod mounts;
mod pin;
mod userns;
