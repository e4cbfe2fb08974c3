//! The one epoll instance, and what each of its events is about.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// New connections.
    Listener,
    /// SIGCHLD and the signals that are to be ignored.
    Signals,
    /// The OOM killer was here.
    Oom,
    /// The container's first process has ended.
    Init,
    /// stdout (or the terminal) and stderr.
    Output(u32),
    /// The container takes input again.
    Stdin,
    /// A connection of a daemon.
    Peer(u32),
    /// An attached client.
    Client(u32),
    /// A second process that is being made.
    Starting(u32),
    /// A second process has ended.
    Exec(u32),
}

const KINDS: u64 = 32;

impl Token {
    fn to_data(self) -> EventData {
        let (kind, id) = match self {
            Self::Listener => (0, 0),
            Self::Signals => (1, 0),
            Self::Oom => (2, 0),
            Self::Init => (3, 0),
            Self::Output(id) => (4, id),
            Self::Stdin => (5, 0),
            Self::Peer(id) => (6, id),
            Self::Client(id) => (7, id),
            Self::Starting(id) => (8, id),
            Self::Exec(id) => (9, id),
        };
        EventData::new_u64(kind << KINDS | u64::from(id))
    }

    fn of_data(data: EventData) -> Option<Self> {
        let data = data.u64();
        let id = u32::try_from(data & u64::from(u32::MAX)).ok()?;
        Some(match data >> KINDS {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Oom,
            3 => Self::Init,
            4 => Self::Output(id),
            5 => Self::Stdin,
            6 => Self::Peer(id),
            7 => Self::Client(id),
            8 => Self::Starting(id),
            9 => Self::Exec(id),
            _ => return None,
        })
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Only for the other side's end.
    Nothing,
    Read,
    Write,
    Both,
}

impl Interest {
    pub(crate) fn new(read: bool, write: bool) -> Self {
        match (read, write) {
            (false, false) => Self::Nothing,
            (true, false) => Self::Read,
            (false, true) => Self::Write,
            (true, true) => Self::Both,
        }
    }

    fn flags(self) -> EventFlags {
        match self {
            Self::Nothing => EventFlags::empty(),
            Self::Read => EventFlags::IN,
            Self::Write => EventFlags::OUT,
            Self::Both => EventFlags::IN | EventFlags::OUT,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: Token,
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// The other side has gone: reported again and again until the descriptor is removed.
    pub(crate) over: bool,
}

/// The epoll instance.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

const MOST: usize = 16;

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, token.to_data(), interest.flags())?)
    }

    pub(crate) fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, token.to_data(), interest.flags())?)
    }

    /// Before a descriptor is closed or given away: a copy of it in another process would go on reporting.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // It may never have been added.
        epoll::delete(&self.epoll, fd).ok();
    }

    /// Waits; an interrupted wait is one without events.
    pub(crate) fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; MOST];
        let timeout = timeout.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let count = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        for event in &events[..count] {
            let flags = event.flags;
            // The end of the other side and errors are found out by reading and writing.
            let over = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            let Some(token) = Token::of_data(event.data) else {
                continue;
            };
            ready.push(Ready {
                token,
                read: over || flags.contains(EventFlags::IN),
                write: over || flags.contains(EventFlags::OUT),
                over,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Listener,
            Token::Init,
            Token::Output(1),
            Token::Peer(u32::MAX),
            Token::Exec(7),
            Token::Starting(9),
        ] {
            assert_eq!(Token::of_data(token.to_data()), Some(token));
        }
    }
}
