//! Turns the C convention (-1 and errno) into `io::Result`.

use std::io;

/// The value, or errno where the call returned -1.
pub(crate) fn check(value: libc::c_int) -> io::Result<libc::c_int> {
    if value == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

/// As [`check`], for `syscall(2)`.
pub(crate) fn check_long(value: libc::c_long) -> io::Result<libc::c_long> {
    if value == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}
