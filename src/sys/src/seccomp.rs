//! seccomp(2): loads a BPF program for this thread. What the program says is the `seccomp` crate's affair.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::call::check_long;

/// One instruction of classic BPF; the layout of `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Jump where true.
    pub jt: u8,
    /// Jump where false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

const _: () = assert!(size_of::<SockFilter>() == size_of::<libc::sock_filter>());
const _: () = assert!(align_of::<SockFilter>() == align_of::<libc::sock_filter>());

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`: the call returns the notification descriptor.
pub const NEW_LISTENER: u32 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;

/// Loads `filter` with `flags` of seccomp(2); the descriptor is there where [`NEW_LISTENER`] is among them.
///
/// # Errors
/// `InvalidInput` for a program of more than 65535 instructions; else what seccomp(2) says: EACCES without
/// `no_new_privs` and `CAP_SYS_ADMIN`, EINVAL for a program that the kernel's checker refuses.
pub fn load(filter: &[SockFilter], flags: u32) -> io::Result<Option<OwnedFd>> {
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` names `len` instructions of the kernel's own layout (asserted above), which outlive the
    // call; the kernel copies and does not write them.
    let fd = check_long(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER),
            flags as libc::c_long,
            &raw const program,
        )
    })?;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with NEW_LISTENER the return value is a new descriptor, which nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RET: u16 = 0x06;
    const LOAD: u16 = 0x20;
    const JUMP_EQ: u16 = 0x15;

    #[test]
    fn a_filter_bites_in_the_child_that_loaded_it() {
        let child = crate::process::fork(|| {
            // getppid answers EPERM (1), everything else is allowed.
            let filter = [
                SockFilter {
                    code: LOAD,
                    jt: 0,
                    jf: 0,
                    k: 0,
                },
                SockFilter {
                    code: JUMP_EQ,
                    jt: 0,
                    jf: 1,
                    k: libc::SYS_getppid as u32,
                },
                SockFilter {
                    code: RET,
                    jt: 0,
                    jf: 0,
                    k: 0x0005_0000 | 1,
                },
                SockFilter {
                    code: RET,
                    jt: 0,
                    jf: 0,
                    k: 0x7fff_0000,
                },
            ];
            if crate::prctl::set_no_new_privs().is_err() || load(&filter, 0).is_err() {
                return 2;
            }
            // SAFETY: getppid has no arguments and touches no memory.
            u8::from(unsafe { libc::syscall(libc::SYS_getppid) } != -1)
        })
        .unwrap();
        assert_eq!(crate::process::wait(child).unwrap(), crate::process::Exit::Code(0));
    }

    #[test]
    fn rubbish_is_refused() {
        let filter = [SockFilter {
            code: 0xffff,
            jt: 0,
            jf: 0,
            k: 0,
        }];
        assert!(load(&filter, 0).is_err());
    }
}
