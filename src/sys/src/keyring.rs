//! keyctl(2): a session keyring of one's own.

use std::ffi::CStr;
use std::io;

use crate::call::check_long;

const JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Joins the session keyring `name`, made where there is none, so that the keys of the one inherited are out of
/// reach.
///
/// # Errors
/// ENOSYS in a kernel without keys; EDQUOT where the user has too many.
pub fn join_session(name: &CStr) -> io::Result<()> {
    // SAFETY: the name is NUL-terminated and outlives the call; the kernel copies it.
    check_long(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr(), 0, 0, 0) }).map(drop)
}
