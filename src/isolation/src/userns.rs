//! User namespaces, made by a child that only holds one until its maps are written and somebody has its file.
//!
//! The maps are written from outside, with the host's `CAP_SETUID` and `CAP_SETGID`: so any ids may be mapped, and
//! `setgroups` stays allowed (user_namespaces(7); it must be denied only where a map is written without privilege,
//! CVE-2014-8989). The namespace belongs to the host's root, and lives on in the descriptor.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use sys::process;

use crate::Error;
use crate::plan::userns::{Maps, text};

/// A new user namespace with these maps.
pub(crate) fn make(maps: &Maps) -> Result<OwnedFd, Error> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::sys("make", "pipe"));
    let ((said, saying), (held, holding)) = (pipe()?, pipe()?);
    let holder =
        process::fork(move || hold(saying, held)).map_err(Error::sys("fork", "the holder of a user namespace"))?;
    let made = std::fs::File::from(said);
    let result = written(holder, made, maps);
    drop(holding);
    match process::wait(holder) {
        Ok(_) => result,
        Err(error) => result.and(Err(Error::sys("wait for", "the holder of a user namespace")(error))),
    }
}

/// The child: until its end of the second pipe says that nobody needs it any more.
fn hold(saying: OwnedFd, held: OwnedFd) -> u8 {
    let code = |error: std::io::Error| error.raw_os_error().and_then(|code| u8::try_from(code).ok());
    let made = process::close_all_but(&[saying.as_fd(), held.as_fd()])
        .and_then(|()| sys::ns::unshare(libc::CLONE_NEWUSER))
        .map_or_else(|error| code(error).unwrap_or(u8::MAX), |()| 0);
    let told = std::fs::File::from(saying).write_all(&[made]);
    u8::from(told.is_err() || std::fs::File::from(held).read(&mut [0]).is_err())
}

fn written(holder: i32, mut made: std::fs::File, maps: &Maps) -> Result<OwnedFd, Error> {
    let mut error = [u8::MAX];
    made.read_exact(&mut error)
        .map_err(Error::sys("hear from", "the holder of a user namespace"))?;
    if error != [0] {
        let source = std::io::Error::from_raw_os_error(error[0].into());
        return Err(Error::sys("make", "user namespace")(source));
    }
    for (name, lines) in [("uid_map", &maps.uids), ("gid_map", &maps.gids)] {
        let path = format!("/proc/{holder}/{name}");
        // The kernel wants the whole map in one write(2).
        std::fs::write(&path, text(lines)).map_err(Error::sys("write", &path))?;
    }
    let path = format!("/proc/{holder}/ns/user");
    sys::ns::open(Path::new(&path)).map_err(Error::sys("open", path))
}

/// Moves this process into it, with all capabilities there; who it is, it says later (`init::identity::become_root`).
pub(crate) fn enter(namespace: &OwnedFd) -> Result<(), Error> {
    sys::ns::setns(namespace.as_fd(), libc::CLONE_NEWUSER).map_err(Error::sys("join", "user namespace"))
}
