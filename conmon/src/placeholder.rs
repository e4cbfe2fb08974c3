//! A process that does nothing, in a scope that systemd cannot make empty, until a container's own one is there.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use proto::frame;
use proto::monitor::{Frame, Hello, Reply, frame::Body, reply};

/// Says who it is, then waits for the end of the socket.
pub(crate) fn run(socket: OwnedFd) -> io::Result<()> {
    let hello = Hello {
        version: proto::monitor::VERSION,
        pid: rustix::process::getpid().as_raw_nonzero().get(),
    };
    let frame = Frame {
        body: Some(Body::Reply(Reply {
            id: 0,
            result: Some(reply::Result::Hello(hello)),
        })),
    };
    let bytes = frame::encode(&frame).map_err(io::Error::other)?;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        rest = &rest[sys::cmsg::send(socket.as_fd(), rest, &[])?..];
    }
    let mut byte = [0];
    while sys::cmsg::recv(socket.as_fd(), &mut byte)?.0 > 0 {}
    Ok(())
}
