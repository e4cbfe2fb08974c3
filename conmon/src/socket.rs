//! The listening socket through which a new daemon finds the monitors of an older one.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, unlinkat};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen as start_listening, socket_with,
};

use crate::error::Error;

/// Binds `monitor.sock` in the directory, for root alone.
pub(crate) fn listen(state_dir: &OwnedFd) -> Result<OwnedFd, Error> {
    let at = |op| move |errno: rustix::io::Errno| Error::io(op, spec::exit::SOCKET, errno.into());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(at("make"))?;
    // sun_path holds 108 bytes; through the directory's handle no path is too long.
    let path = format!("/proc/self/fd/{}/{}", state_dir.as_raw_fd(), spec::exit::SOCKET);
    let address = SocketAddrUnix::new(path).map_err(at("name"))?;
    // One of an earlier attempt.
    remove(state_dir);
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = bind(&socket, &address);
    rustix::process::umask(before);
    bound.map_err(at("bind"))?;
    start_listening(&socket, 16).map_err(at("listen on"))?;
    Ok(socket)
}

/// Takes the name away; it may be gone.
pub(crate) fn remove(state_dir: &OwnedFd) {
    unlinkat(state_dir, spec::exit::SOCKET, AtFlags::empty()).ok();
}

/// Whether the other side is of our own user.
pub(crate) fn is_trusted(socket: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_peercred(socket).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}
