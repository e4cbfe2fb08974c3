//! Scheduling, execution domain and resource limits.

use crate::Error;
use crate::plan::process::Process;

/// Policy and priorities.
pub(super) fn schedule(process: &Process) -> Result<(), Error> {
    if let Some(attr) = process.scheduler {
        sys::sched::set(attr).map_err(Error::sys("set", "process.scheduler"))?;
    }
    if let Some((class, level)) = process.io_priority {
        sys::sched::set_io_priority(class, level).map_err(Error::sys("set", "process.ioPriority"))?;
    }
    Ok(())
}

/// The execution domain.
pub(super) fn persona(personality: Option<u64>) -> Result<(), Error> {
    let Some(personality) = personality else { return Ok(()) };
    sys::sched::set_personality(personality).map_err(Error::sys("set", "linux.personality"))
}

/// Limits: late, because they hold for us as well.
pub(super) fn set(process: &Process) -> Result<(), Error> {
    for (resource, limit) in &process.limits {
        sys::rlimit::set(*resource, *limit).map_err(Error::sys("set limit", format!("{resource:?} {limit:?}")))?;
    }
    Ok(())
}
