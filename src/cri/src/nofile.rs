//! How many files the daemon may have open: as many as the hard limit lets it. Programs in containers get what the service
//! manager gave us, for select(2) breaks above 1024.

use std::io;
use std::sync::OnceLock;

use sys::rlimit::{self, Limit};

/// More than this nobody needs; the hard limit may be 2^30.
const ENOUGH: u64 = 1 << 16;

/// What was there before [`raise`].
static GIVEN: OnceLock<Limit> = OnceLock::new();

/// Raises the soft limit of this process.
///
/// # Errors
/// What setrlimit(2) says.
pub fn raise() -> io::Result<()> {
    let Some(resource) = rlimit::named("RLIMIT_NOFILE") else {
        return Ok(());
    };
    let given = *GIVEN.get_or_init(|| rlimit::get(resource));
    let soft = given.hard.map_or(ENOUGH, |hard| hard.min(ENOUGH));
    if given.soft.is_none_or(|now| now >= soft) {
        return Ok(());
    }
    let soft = Some(soft);
    rlimit::set(resource, Limit { soft, ..given })
}

/// Gives the limit that was there before to a process from which containers come.
pub(crate) fn give_back(pid: i32) -> io::Result<()> {
    match (GIVEN.get(), rlimit::named("RLIMIT_NOFILE")) {
        (Some(given), Some(resource)) => rlimit::give(pid, resource, *given),
        _ => Ok(()),
    }
}
