//! Frames and descriptors on a monitor's stream socket, for an event loop.
//!
//! A frame is a little-endian u32 length and that many bytes of `Frame`. Descriptors ride
//! on the first byte of the frame that names them. A read never runs past bytes that came
//! with descriptors (unix(7): ancillary data is a barrier), and frames that name
//! descriptors take the sets in the order of their arrival.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use proto::monitor::Frame;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// Longest frame that is believed: process specifications with a large environment fit.
const MAX_FRAME: usize = 16 << 20;

/// Most descriptors that come with one frame (stdin, stdout, stderr) and room to grow.
const MAX_FDS: usize = 8;

/// Encodes a frame.
pub(crate) fn encode(frame: &Frame) -> io::Result<Bytes> {
    let length = frame.encoded_len();
    let prefix = u32::try_from(length).ok().filter(|n| *n as usize <= MAX_FRAME);
    let Some(prefix) = prefix else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {length} bytes is too long"),
        ));
    };
    let mut bytes = BytesMut::with_capacity(length + 4);
    bytes.put_u32_le(prefix);
    frame
        .encode(&mut bytes)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    Ok(bytes.freeze())
}

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
    bytes: BytesMut,
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
        self.bytes.extend_from_slice(&chunk[..received.bytes]);
        Ok(received.bytes > 0)
    }

    /// The next whole frame.
    pub(crate) fn take(&mut self) -> io::Result<Option<Frame>> {
        let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let Some(prefix) = self.bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(bad(format!("a frame of {length} bytes is no frame")));
        }
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        self.bytes.advance(4);
        let frame = Frame::decode(self.bytes.split_to(length)).map_err(|e| bad(format!("unreadable frame: {e}")))?;
        if self.bytes.is_empty() {
            // An idle connection holds no buffer: there is one for each container.
            self.bytes = BytesMut::new();
        }
        Ok(Some(frame))
    }

    /// The descriptors of the frame just taken, if it names any.
    pub(crate) fn take_fds(&mut self) -> Vec<OwnedFd> {
        self.fds.pop_front().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        let mut input = Input {
            bytes: BytesMut::from(&b"\xff\xff\xff\xff"[..]),
            fds: VecDeque::new(),
        };
        assert!(input.take().is_err());
    }
}
