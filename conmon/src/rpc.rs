//! One connection of a daemon: frames in and out, descriptors with them. Wire types end here and in `verbs`.
//!
//! A peer that does not read is cut off when its backlog passes [`BACKLOG`]; a peer that dies is forgotten. Neither
//! touches the container.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use proto::frame::{self, Decoder};
use proto::monitor::{Event, Frame, Reply, Request, event, frame::Body, reply};

const BACKLOG: usize = 1 << 20;

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// A connected daemon.
pub(crate) struct Peer {
    pub(crate) id: u32,
    socket: OwnedFd,
    decoder: Decoder,
    fds: VecDeque<Vec<OwnedFd>>,
    out: VecDeque<Outgoing>,
    backlog: usize,
    pub(crate) is_dead: bool,
}

impl Peer {
    pub(crate) fn new(id: u32, socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            id,
            socket,
            decoder: Decoder::default(),
            fds: VecDeque::new(),
            out: VecDeque::new(),
            backlog: 0,
            is_dead: false,
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes in what has arrived.
    pub(crate) fn read(&mut self) {
        let mut chunk = [0u8; 16 * 1024];
        loop {
            match sys::cmsg::recv(self.socket.as_fd(), &mut chunk) {
                Ok((0, _)) => break self.is_dead = true,
                Ok((count, fds)) => {
                    if !fds.is_empty() {
                        self.fds.push_back(fds);
                    }
                    self.decoder.push(&chunk[..count]);
                    if count < chunk.len() && self.fds.is_empty() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => break self.is_dead = true,
            }
        }
    }

    /// The next request; what is none ends the connection.
    pub(crate) fn request(&mut self) -> Option<Request> {
        match self.decoder.take() {
            Ok(Some(Frame {
                body: Some(Body::Request(request)),
            })) => Some(request),
            Ok(None) => None,
            // A reply or event cannot be ours, an unknown body is of a protocol that we do not speak.
            Ok(Some(_)) | Err(_) => {
                self.is_dead = true;
                None
            }
        }
    }

    /// The descriptors of a request that names some.
    pub(crate) fn take_fds(&mut self) -> Vec<OwnedFd> {
        self.fds.pop_front().unwrap_or_default()
    }

    pub(crate) fn reply(&mut self, id: u64, result: reply::Result, fds: Vec<OwnedFd>) {
        self.send(
            &Frame {
                body: Some(Body::Reply(Reply {
                    id,
                    result: Some(result),
                })),
            },
            fds,
        );
    }

    pub(crate) fn event(&mut self, what: event::What) {
        self.send(
            &Frame {
                body: Some(Body::Event(Event { what: Some(what) })),
            },
            Vec::new(),
        );
    }

    fn send(&mut self, frame: &Frame, fds: Vec<OwnedFd>) {
        if self.is_dead {
            return;
        }
        let Ok(bytes) = frame::encode(frame) else {
            self.is_dead = true;
            return;
        };
        self.backlog += bytes.len();
        self.out.push_back(Outgoing { bytes, sent: 0, fds });
        self.flush();
        if self.backlog > BACKLOG {
            self.is_dead = true;
        }
    }

    /// Sends what goes without waiting.
    pub(crate) fn flush(&mut self) {
        while let Some(first) = self.out.front_mut() {
            let fds: Vec<BorrowedFd<'_>> = first.fds.iter().map(|fd| fd.as_fd()).collect();
            match sys::cmsg::send(self.socket.as_fd(), &first.bytes[first.sent..], &fds) {
                Ok(count) => {
                    drop(fds);
                    first.fds.clear();
                    first.sent += count;
                    self.backlog -= count;
                    if first.sent == first.bytes.len() {
                        self.out.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.is_dead = true,
            }
        }
        self.out = VecDeque::new();
    }

    /// Whether something is still to be sent.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.is_dead && !self.out.is_empty()
    }
}
