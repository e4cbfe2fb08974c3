//! prctl(2) switches of this process.

use std::io;

use crate::call::check;

fn prctl(option: libc::c_int, args: [libc::c_ulong; 4]) -> io::Result<libc::c_int> {
    let [a, b, c, d] = args;
    // SAFETY: every option used in this crate takes integers only, so the kernel follows no pointer.
    check(unsafe { libc::prctl(option, a, b, c, d) })
}

/// From here on execve grants no privilege; cannot be taken back.
///
/// # Errors
/// What prctl(2) says.
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map(drop)
}

/// Whether `/proc/<pid>/*` belongs to the process' own user and ptrace may attach. execve sets it again.
///
/// # Errors
/// What prctl(2) says.
pub fn set_dumpable(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, [on.into(), 0, 0, 0]).map(drop)
}

/// Keeps the permitted set when all user ids leave 0; execve ends it.
///
/// # Errors
/// What prctl(2) says.
pub fn set_keep_caps(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, [on.into(), 0, 0, 0]).map(drop)
}

/// Orphans below this process become its children.
///
/// # Errors
/// What prctl(2) says.
pub fn set_child_subreaper(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, [on.into(), 0, 0, 0]).map(drop)
}

/// The signal that this process gets when its parent thread ends; 0 takes it back.
///
/// # Errors
/// What prctl(2) says.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, [signal as libc::c_ulong, 0, 0, 0]).map(drop)
}

/// The name in `/proc/<pid>/comm`; the kernel cuts it at 15 bytes.
///
/// # Errors
/// What prctl(2) says.
pub fn set_name(name: &std::ffi::CStr) -> io::Result<()> {
    Ok(rustix::thread::set_name(name)?)
}

/// Whether capability number `cap` is in the bounding set.
///
/// # Errors
/// EINVAL for a number this kernel does not know.
pub fn bounding_has(cap: u32) -> io::Result<bool> {
    Ok(prctl(libc::PR_CAPBSET_READ, [cap.into(), 0, 0, 0])? == 1)
}

/// Drops capability number `cap` from the bounding set.
///
/// # Errors
/// EPERM without `CAP_SETPCAP`, EINVAL for a number this kernel does not know.
pub fn bounding_drop(cap: u32) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, [cap.into(), 0, 0, 0]).map(drop)
}

/// Empties the ambient set.
///
/// # Errors
/// What prctl(2) says.
pub fn ambient_clear() -> io::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        [libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0],
    )
    .map(drop)
}

/// Raises capability number `cap` in the ambient set.
///
/// # Errors
/// EPERM where it is not both permitted and inheritable.
pub fn ambient_raise(cap: u32) -> io::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        [libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, cap.into(), 0, 0],
    )
    .map(drop)
}
