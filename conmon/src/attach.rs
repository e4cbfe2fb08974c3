//! Attached clients: each a SOCK_SEQPACKET relay whose packets start with a byte that says what they are
//! (monitor.proto). Output goes to all; what a client does not read waits, up to a limit, and then that client is let
//! go: the container and the other clients never wait for one.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, recv, sendmsg, socketpair,
};

use crate::error::Error;
use crate::log::Stream;

const STDIN: u8 = 1;
const STDOUT: u8 = 2;
const STDERR: u8 = 3;
const RESIZE: u8 = 4;
const END_OF_STDIN: u8 = 5;

/// A packet with its first byte.
const PACKET: usize = 16 * 1024;

/// What may wait for a client beside what its socket holds.
const BACKLOG: usize = 1 << 20;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Input(&'a [u8]),
    EndOfInput,
    Resize {
        columns: u16,
        rows: u16,
    },
    /// Of a newer daemon.
    Unknown,
}

/// One attached client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u32,
    socket: OwnedFd,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// It has sent input, so that its going ends a stdin that is for one client.
    pub(crate) had_input: bool,
    pub(crate) is_dead: bool,
}

/// A room for one packet.
pub(crate) type PacketBuffer = [u8; PACKET + 1];

impl Client {
    /// A client, and the end of the relay that goes to the daemon.
    pub(crate) fn new(id: u32) -> Result<(Self, OwnedFd), Error> {
        let at = |errno: Errno| Error::io("make", "a relay for attach", errno.into());
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(at)?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(at)?;
        let client = Self {
            id,
            socket: ours,
            queue: VecDeque::new(),
            queued: 0,
            had_input: false,
            is_dead: false,
        };
        Ok((client, theirs))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Output for the client.
    pub(crate) fn send(&mut self, stream: Stream, bytes: &[u8]) {
        let kind = match stream {
            Stream::Stdout => STDOUT,
            Stream::Stderr => STDERR,
        };
        for part in bytes.chunks(PACKET - 1) {
            if self.is_dead {
                return;
            }
            if self.queue.is_empty() && self.try_send(&[kind], part) {
                continue;
            }
            if self.is_dead || self.queued + part.len() > BACKLOG {
                return self.is_dead = true;
            }
            self.queued += part.len() + 1;
            self.queue.push_back([&[kind], part].concat());
        }
    }

    /// True when it went; false when it has to wait or the client is gone.
    fn try_send(&mut self, head: &[u8], body: &[u8]) -> bool {
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        loop {
            match sendmsg(
                &self.socket,
                &parts,
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                // ENOBUFS: the kernel is short of memory, not the client of willingness.
                Err(Errno::AGAIN | Errno::NOBUFS) => return false,
                Err(_) => {
                    self.is_dead = true;
                    return false;
                }
            }
        }
    }

    /// Sends what waited.
    pub(crate) fn flush(&mut self) {
        while let Some(packet) = self.queue.pop_front() {
            let (head, body) = packet.split_at(1);
            if !self.try_send(head, body) {
                self.queue.push_front(packet);
                return;
            }
            self.queued -= packet.len();
        }
        self.queue = VecDeque::new();
    }

    pub(crate) fn has_backlog(&self) -> bool {
        !self.is_dead && !self.queue.is_empty()
    }

    /// The next packet; `None` when there is none now or the client has gone.
    pub(crate) fn receive<'a>(&mut self, buffer: &'a mut PacketBuffer) -> Option<Packet<'a>> {
        let count = loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    self.is_dead = true;
                    return None;
                }
                Ok((_, count)) => break count.min(PACKET + 1),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) => {
                    self.is_dead = true;
                    return None;
                }
            }
        };
        let packet = parse(&buffer[..count]);
        self.had_input |= matches!(packet, Packet::Input(_) | Packet::EndOfInput);
        Some(packet)
    }
}

fn parse(packet: &[u8]) -> Packet<'_> {
    match packet {
        [STDIN, bytes @ ..] => Packet::Input(bytes),
        [RESIZE, a, b, c, d, ..] => Packet::Resize {
            columns: u16::from_le_bytes([*a, *b]),
            rows: u16::from_le_bytes([*c, *d]),
        },
        [END_OF_STDIN, ..] => Packet::EndOfInput,
        _ => Packet::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets() {
        assert_eq!(parse(&[1, b'a']), Packet::Input(b"a"));
        assert_eq!(parse(&[4, 80, 0, 24, 1]), Packet::Resize { columns: 80, rows: 280 });
        assert_eq!(parse(&[4, 80]), Packet::Unknown);
        assert_eq!(parse(&[5]), Packet::EndOfInput);
        assert_eq!(parse(&[9]), Packet::Unknown);
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go_and_one_that_does_gets_all() {
        let (mut stalled, _kept) = Client::new(1).unwrap();
        let (mut reading, theirs) = Client::new(2).unwrap();
        let mut buffer = [0u8; PACKET + 1];
        let mut got = 0;
        for _ in 0..400 {
            stalled.send(Stream::Stdout, &[b'x'; 20_000]);
            reading.send(Stream::Stderr, &[b'y'; 20_000]);
            while let Ok((_, count)) = recv(&theirs, &mut buffer[..], RecvFlags::DONTWAIT) {
                assert_eq!(buffer[0], STDERR);
                got += count - 1;
            }
            reading.flush();
        }
        assert!(stalled.is_dead && stalled.queued <= BACKLOG + PACKET);
        assert!(!reading.is_dead);
        while let Ok((_, count)) = recv(&theirs, &mut buffer[..], RecvFlags::DONTWAIT) {
            got += count - 1;
            reading.flush();
        }
        assert_eq!(got, 400 * 20_000);
    }
}
