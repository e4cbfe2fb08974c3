//! The monitor as the daemon sees it: a spawner, orders on its control socket, a monitor's connection, real containers made
//! from Debian's static busybox. Needs root. `BULKHEAD_CONMON` names another build of the program.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this program is a test"
)]

mod attach;
mod driver;
mod exec;
mod lifecycle;
mod logs;
mod measure;
mod orders;
