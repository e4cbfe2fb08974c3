//! Frames (`proto::frame`) and their descriptors on a monitor's stream socket, for an event loop.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::frame::{Decoder, MAX_FDS};
use proto::monitor::Frame;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Sends as much of `bytes` as goes at once; `fds` go with its first byte.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<usize> {
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for one frame",
        ));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        flags,
    )?)
}

/// What has been read and not yet taken.
#[derive(Debug, Default)]
pub(crate) struct Input {
    frames: Decoder,
    fds: VecDeque<Vec<OwnedFd>>,
}

impl Input {
    /// Reads once. False at the end of the stream.
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let mut chunk = [0u8; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut chunk)], &mut ancillary, flags)?;
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if !fds.is_empty() {
            self.fds.push_back(fds);
        }
        self.frames.push(&chunk[..received.bytes]);
        Ok(received.bytes > 0)
    }

    /// The next whole frame.
    pub(crate) fn take(&mut self) -> io::Result<Option<Frame>> {
        self.frames
            .take()
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// The descriptors of the frame just taken, if it names any.
    pub(crate) fn take_fds(&mut self) -> Vec<OwnedFd> {
        self.fds.pop_front().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::frame::encode;
    use proto::monitor::{Done, Reply, frame::Body, reply};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn done(id: u64) -> Frame {
        Frame {
            body: Some(Body::Reply(Reply {
                id,
                result: Some(reply::Result::Done(Done {})),
            })),
        }
    }

    #[test]
    fn frames_and_descriptors_arrive_in_order_however_they_are_cut() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let (plain, with_fd) = (encode(&done(1)).unwrap(), encode(&done(2)).unwrap());
        send(a.as_fd(), &plain, &[]).unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert_eq!(send(a.as_fd(), &with_fd[..3], &[write]).unwrap(), 3);
        send(a.as_fd(), &with_fd[3..], &[]).unwrap();
        drop(a);
        let mut input = Input::default();
        let mut seen = Vec::new();
        while input.fill(b.as_fd()).unwrap() {
            while let Some(frame) = input.take().unwrap() {
                seen.push(frame);
            }
        }
        assert_eq!(seen, [done(1), done(2)]);
        let fds = input.take_fds();
        assert_eq!(fds.len(), 1);
        rustix::io::write(&fds[0], b"x").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&read, &mut byte).unwrap(), 1);
        assert!(input.take_fds().is_empty());
    }
}
