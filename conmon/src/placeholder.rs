//! A process that does nothing, in a scope that systemd cannot make empty, until a container's own one is there.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use proto::monitor::{Hello, reply};

use crate::answer;

/// Says who it is, then waits for the end of the socket.
pub(crate) fn run(socket: OwnedFd) -> io::Result<()> {
    let hello = Hello {
        version: proto::monitor::VERSION,
        pid: rustix::process::getpid().as_raw_nonzero().get(),
    };
    answer::say(&socket, reply::Result::Hello(hello))?;
    let mut byte = [0];
    while sys::cmsg::recv(socket.as_fd(), &mut byte)?.0 > 0 {}
    Ok(())
}
