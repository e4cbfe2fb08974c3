//! Messages between the caller (the monitor), the creator or joiner it forks, and the new process.
//!
//! | from            | message   | carries                       | the caller does                              |
//! |-----------------|-----------|-------------------------------|----------------------------------------------|
//! | creator         | `Planned` | cgroup path, user, clamps     | keeps them; from here on it undoes the cgroup |
//! | creator, joiner | `Spawned` | pid, in the caller's namespace | opens a pidfd: the process is its child      |
//! | process         | `Console` | descriptor: the pty's master  | keeps it                                     |
//! | init            | `Ready`   | –                             | `create` returns                             |
//! | init            | `Hooks`   | –                             | runs the hooks of the host, answers `Start`   |
//! | caller          | `Start`   | –                             | `start` waits                                |
//! | any of ours     | `Failed`  | kind and chain of the error   | undoes, returns that error                   |
//!
//! One `SOCK_SEQPACKET` pair, so that two writers never mix; a message is one packet. Both ends are close-on-exec:
//! **end of file after `Start` (create) or `Spawned` (exec) means that execve succeeded**. End of file before
//! that means that our process died: its wait status is reported, never "broken pipe". `Spawned` and `Ready` come from
//! two processes, in either order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use spec::Kind;

use crate::Error;

/// The most supplementary groups that a message can carry; `plan` refuses more.
pub(crate) const MAX_GROUPS: usize = 16_384;
const MAX_MESSAGE: usize = 128 << 10;
const MAX_TEXT: usize = 4 << 10;
const MAX_LINES: usize = 24;

/// See the table above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Planned {
        cgroup_path: String,
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
        clamped: Vec<String>,
        /// Whether there are poststart and poststop hooks.
        hooks: (bool, bool),
    },
    Spawned {
        pid: i32,
    },
    Console,
    Ready,
    Hooks,
    Start,
    Failed {
        kind: Kind,
        chain: Vec<String>,
    },
}

const PLANNED: u8 = 1;
const SPAWNED: u8 = 2;
const CONSOLE: u8 = 3;
const READY: u8 = 4;
const START: u8 = 5;
const FAILED: u8 = 6;
const HOOKS: u8 = 7;

impl Message {
    pub(crate) fn failed(error: &Error) -> Self {
        Self::Failed {
            kind: error.kind(),
            chain: error.chain(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Planned {
                cgroup_path,
                uid,
                gid,
                groups,
                clamped,
                hooks,
            } => {
                out.push(PLANNED);
                put_text(&mut out, cgroup_path);
                put_u32(&mut out, *uid);
                put_u32(&mut out, *gid);
                put_u32(&mut out, len(groups.len()));
                groups.iter().for_each(|gid| put_u32(&mut out, *gid));
                put_lines(&mut out, clamped);
                put_u32(&mut out, u32::from(hooks.0) | u32::from(hooks.1) << 1);
            }
            Self::Spawned { pid } => {
                out.push(SPAWNED);
                out.extend(pid.to_le_bytes());
            }
            Self::Console => out.push(CONSOLE),
            Self::Ready => out.push(READY),
            Self::Hooks => out.push(HOOKS),
            Self::Start => out.push(START),
            Self::Failed { kind, chain } => {
                out.push(FAILED);
                put_text(&mut out, kind.name());
                put_lines(&mut out, chain);
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&tag, mut rest) = bytes.split_first()?;
        let rest = &mut rest;
        let message = match tag {
            PLANNED => Self::Planned {
                cgroup_path: take_text(rest)?,
                uid: take_u32(rest)?,
                gid: take_u32(rest)?,
                groups: (0..take_u32(rest)?).map(|_| take_u32(rest)).collect::<Option<_>>()?,
                clamped: take_lines(rest)?,
                hooks: {
                    let bits = take_u32(rest)?;
                    (bits & 1 != 0, bits & 2 != 0)
                },
            },
            SPAWNED => Self::Spawned {
                pid: take_u32(rest)?.cast_signed(),
            },
            CONSOLE => Self::Console,
            READY => Self::Ready,
            HOOKS => Self::Hooks,
            START => Self::Start,
            FAILED => Self::Failed {
                kind: Kind::from_name(&take_text(rest)?),
                chain: take_lines(rest)?,
            },
            _ => return None,
        };
        rest.is_empty().then_some(message)
    }
}

fn len(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_le_bytes());
}

/// Text longer than `MAX_TEXT` is cut, at a character.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(MAX_TEXT)];
    put_u32(out, len(text.len()));
    out.extend(text.as_bytes());
}

fn put_lines(out: &mut Vec<u8>, lines: &[String]) {
    let lines = &lines[..lines.len().min(MAX_LINES)];
    put_u32(out, len(lines.len()));
    lines.iter().for_each(|line| put_text(out, line));
}

fn take_u32(from: &mut &[u8]) -> Option<u32> {
    let (head, rest) = from.split_first_chunk::<4>()?;
    *from = rest;
    Some(u32::from_le_bytes(*head))
}

fn take_text(from: &mut &[u8]) -> Option<String> {
    let n = usize::try_from(take_u32(from)?).ok()?;
    let (head, rest) = from.split_at_checked(n)?;
    *from = rest;
    String::from_utf8(head.to_vec()).ok()
}

fn take_lines(from: &mut &[u8]) -> Option<Vec<String>> {
    (0..take_u32(from)?).map(|_| take_text(from)).collect()
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

impl AsFd for Channel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Self, Self), Error> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Error::sys("make", "socket pair"))?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    pub(crate) fn send(&self, message: &Message) -> Result<(), Error> {
        self.put(message, &[]).map_err(Error::sys("report to", "the caller"))
    }

    pub(crate) fn send_with(&self, message: &Message, fd: &OwnedFd) -> Result<(), Error> {
        self.put(message, &[fd.as_fd()])
            .map_err(Error::sys("report to", "the caller"))
    }

    fn put(&self, message: &Message, fds: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
        sys::cmsg::send(self.as_fd(), &message.encode(), fds).map(drop)
    }

    /// As `send`, with write(2) alone: behind a seccomp filter, which may know no sendmsg(2).
    pub(crate) fn write_failure(&self, error: &Error) {
        // Nobody is left to tell if this fails; the exit status says the rest.
        rustix::io::write(&self.socket, &Message::failed(error).encode()).ok();
    }

    /// Whether `receive` returns at once.
    pub(crate) fn has_message(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
    }

    /// The next message and what came with it; `None` at the end.
    pub(crate) fn receive(&self) -> Result<Option<(Message, Vec<OwnedFd>)>, Error> {
        use rustix::net::{RecvFlags, recv};
        // How long is it? A buffer for the longest would cost more than the second call.
        let peek = || recv(&self.socket, &mut [0; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC);
        let (_, len) = rustix::io::retry_on_intr(peek).map_err(Error::sys("hear from", "the new process"))?;
        let mut buf = vec![0; len.min(MAX_MESSAGE)];
        let (n, fds) = sys::cmsg::recv(self.as_fd(), &mut buf).map_err(Error::sys("hear from", "the new process"))?;
        if n == 0 {
            return Ok(None);
        }
        let message =
            Message::decode(&buf[..n]).ok_or_else(|| Error::state("the new process", "sent a message that is none"))?;
        Ok(Some((message, fds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_wire() {
        let (a, b) = Channel::pair().unwrap();
        let messages = [
            Message::Planned {
                cgroup_path: "/x/y".into(),
                uid: 1,
                gid: u32::MAX - 1,
                groups: (0..u32::try_from(MAX_GROUPS).unwrap()).collect(),
                clamped: vec!["a".into(), "ü".into()],
                hooks: (false, true),
            },
            Message::Spawned { pid: 4711 },
            Message::Console,
            Message::Ready,
            Message::Hooks,
            Message::Start,
            Message::Failed {
                kind: Kind::NotFound,
                chain: vec!["x".into(), String::new()],
            },
        ];
        for message in messages {
            a.send(&message).unwrap();
            assert_eq!(b.receive().unwrap().unwrap().0, message);
        }
        drop(a);
        assert!(b.receive().unwrap().is_none());
    }

    #[test]
    fn long_chains_are_cut_and_rubbish_is_refused() {
        let chain = vec!["ü".repeat(5000); 100];
        let bytes = Message::Failed {
            kind: Kind::Internal,
            chain,
        }
        .encode();
        assert!(bytes.len() < MAX_MESSAGE);
        assert!(Message::decode(&bytes).is_some());
        assert!(Message::decode(&bytes[..bytes.len() - 1]).is_none());
        assert!(Message::decode(&[9]).is_none());
        assert!(Message::decode(&[READY, 0]).is_none());
    }
}
