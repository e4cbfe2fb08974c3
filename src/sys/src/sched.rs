//! Scheduling of this process: policy, nice value, I/O priority, and the execution domain.

use std::io;

use crate::call::{check, check_long};

/// What sched_setattr(2) is given; the layout of `struct sched_attr` up to Linux 5.3.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Of this structure.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds, as the next two.
    pub runtime: u64,
    /// See `runtime`.
    pub deadline: u64,
    /// See `runtime`.
    pub period: u64,
}

const _: () = assert!(size_of::<SchedAttr>() == 48);

/// Sets the scheduling of this thread; the size is filled in.
///
/// # Errors
/// What sched_setattr(2) says.
pub fn set(attr: SchedAttr) -> io::Result<()> {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        ..attr
    };
    // SAFETY: the structure has the kernel's layout and says its size; the kernel only reads it.
    check_long(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// Sets the I/O priority of this thread: class 1 real-time, 2 best effort, 3 idle; level 0 (most) to 7.
///
/// # Errors
/// What ioprio_set(2) says.
pub fn set_io_priority(class: u16, level: u16) -> io::Result<()> {
    const WHO_PROCESS: libc::c_long = 1;
    let value = libc::c_long::from(class) << 13 | libc::c_long::from(level);
    // SAFETY: integers only.
    check_long(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) }).map(drop)
}

/// Sets the execution domain (personality(2)).
///
/// # Errors
/// What personality(2) says.
pub fn set_personality(persona: u64) -> io::Result<()> {
    // SAFETY: an integer only.
    check(unsafe { libc::personality(persona) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nice_and_io_priority_hold_in_the_child() {
        let child = crate::process::fork(|| {
            let nice = SchedAttr {
                nice: 7,
                ..SchedAttr::default()
            };
            if set(nice).is_err() || set_io_priority(2, 6).is_err() || set_io_priority(5, 0).is_ok() {
                return 1;
            }
            // SAFETY: integers only.
            u8::from(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) } != 7)
        })
        .unwrap();
        assert_eq!(crate::process::wait(child).unwrap(), crate::process::Exit::Code(0));
    }
}
