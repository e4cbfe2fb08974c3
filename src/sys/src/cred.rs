//! User and group ids of this process. Raw system calls: they change the calling thread alone, so the process
//! must have one thread (glibc's wrappers would signal the others; between fork and execve there are none).

use std::io;

use rustix::fs::Mode;
use rustix::process::{Gid, Uid};

/// The id that "keep" means to the kernel; no user or group has it.
pub const NOBODY_AT_ALL: u32 = u32::MAX;

fn checked(id: u32) -> io::Result<u32> {
    // (uid_t)-1 would silently keep the old id.
    if id == NOBODY_AT_ALL {
        Err(io::Error::from(io::ErrorKind::InvalidInput))
    } else {
        Ok(id)
    }
}

/// Sets real, effective and saved user id.
///
/// # Errors
/// `InvalidInput` for 4294967295; else what setresuid(2) says.
pub fn set_uid(uid: u32) -> io::Result<()> {
    let uid = Uid::from_raw(checked(uid)?);
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

/// Sets the effective user id alone: the capabilities that root has by it go, and come back with it.
///
/// # Errors
/// `InvalidInput` for 4294967295; else what setresuid(2) says.
pub fn set_effective_uid(uid: u32) -> io::Result<()> {
    Ok(rustix::thread::set_thread_res_uid(
        None,
        Uid::from_raw(checked(uid)?),
        None,
    )?)
}

/// Sets real, effective and saved group id.
///
/// # Errors
/// `InvalidInput` for 4294967295; else what setresgid(2) says.
pub fn set_gid(gid: u32) -> io::Result<()> {
    let gid = Gid::from_raw(checked(gid)?);
    Ok(rustix::thread::set_thread_res_gid(gid, gid, gid)?)
}

/// Sets the supplementary groups.
///
/// # Errors
/// `InvalidInput` for 4294967295; else what setgroups(2) says.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    let groups = groups
        .iter()
        .map(|&gid| Ok(Gid::from_raw(checked(gid)?)))
        .collect::<io::Result<Vec<_>>>()?;
    Ok(rustix::thread::set_thread_groups(&groups)?)
}

/// Sets the file mode creation mask.
pub fn set_umask(mask: u32) {
    rustix::process::umask(Mode::from_raw_mode(mask & 0o777));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_refused() {
        assert!(set_uid(u32::MAX).is_err());
        assert!(set_gid(u32::MAX).is_err());
        assert!(set_groups(&[1, u32::MAX]).is_err());
    }

    #[test]
    fn all_ids_change() {
        let child = crate::process::fork(|| {
            let run = || {
                set_groups(&[7, 8])?;
                set_gid(1001)?;
                set_uid(1000)?;
                let status = std::fs::read_to_string("/proc/self/status")?;
                io::Result::Ok(
                    status.contains("Uid:\t1000\t1000\t1000\t1000")
                        && status.contains("Gid:\t1001\t1001\t1001\t1001")
                        && status.contains("Groups:\t7 8"),
                )
            };
            u8::from(!run().unwrap_or(false))
        })
        .unwrap();
        assert_eq!(crate::process::wait(child).unwrap(), crate::process::Exit::Code(0));
    }
}
