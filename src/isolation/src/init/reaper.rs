//! The built-in init of a pod that shares its pid namespace: it reaps what is orphaned there and ends on SIGTERM.
//!
//! Asked for by the annotation [`ANNOTATION`] = [`VALUE`] in config.json. It is a container like any other, up to
//! execve, which it leaves out: no image is needed (without `root.path` its root is an empty tmpfs), the monitor
//! starts, watches and stops it like any other, and the pod's containers join its pid namespace through
//! `/proc/<pid>/ns/pid` of the host. It stays undumpable, so that they cannot look into it.

use std::convert::Infallible;

use sys::process::{close_from, exit_now, reap_any};
use sys::signal;

use crate::Error;

/// The annotation.
pub const ANNOTATION: &str = "io.bulkhead.init";
/// Its only value.
pub(crate) const VALUE: &str = "reaper";

const WATCHED: [i32; 3] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT];

/// Returns only where it could not begin.
pub(super) fn run() -> Result<Infallible, Error> {
    // The first process of a pid namespace ignores what it has no handler for; blocked and waited for it arrives.
    signal::block(&WATCHED).map_err(Error::sys("block", "signals"))?;
    sys::prctl::set_name(c"bulkhead-init").map_err(Error::sys("set", "the name"))?;
    // What execve would have closed; the caller hears that it has been started.
    close_from(3).map_err(Error::sys("close", "descriptors"))?;
    loop {
        match signal::wait(&WATCHED) {
            Ok(libc::SIGCHLD) => while reap_any().unwrap_or(false) {},
            // Not by returning: the descriptors that the frames above own are closed already.
            Ok(_) => exit_now(0),
            Err(_) => exit_now(1),
        }
    }
}
