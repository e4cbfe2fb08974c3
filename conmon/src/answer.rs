//! The one answer of a process that serves no connection: what a pin, a placeholder and a failed order say.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use proto::frame;
use proto::monitor::{Frame, Reply, frame::Body, reply};

/// Sends it, whole. Its id is 0: it answers the order itself.
pub(crate) fn say(socket: impl AsFd, result: reply::Result) -> io::Result<()> {
    let frame = Frame {
        body: Some(Body::Reply(Reply {
            id: 0,
            result: Some(result),
        })),
    };
    let bytes = frame::encode(&frame).map_err(io::Error::other)?;
    write_all(socket.as_fd(), &bytes)
}

fn write_all(socket: BorrowedFd<'_>, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        rest = &rest[sys::cmsg::send(socket, rest, &[])?..];
    }
    Ok(())
}
