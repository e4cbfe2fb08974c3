//! The deletion of a link, told apart from the wait for its memory.
//!
//! The kernel answers `RTM_DELLINK` after `rcu_barrier` (`netdev_run_todo`): tens of milliseconds in which
//! nothing of the link is left but memory. That it is out of every list, closed, without addresses
//! and routes is told before, to whoever listens to `RTNLGRP_LINK`. So one process asks and sleeps,
//! and another goes on when it hears the news, by the same socket, which carries a refusal as well.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::Error;
use crate::link::{self, Link};
use crate::socket::Socket;

/// A link that is to go.
#[derive(Debug)]
pub struct Deletion {
    socket: Socket,
    index: u32,
    seq: u32,
    request: Vec<u8>,
    what: String,
}

impl Deletion {
    /// Prepares that of link `name` of this thread's network namespace; none where there is no such link.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn prepare(name: &str) -> Result<Option<Self>, Error> {
        let mut socket = Socket::links()?;
        let found = match socket.one(link::get(name)) {
            Ok(found) => found,
            Err(error) if error.errno() == Some(Errno::NODEV.raw_os_error()) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(Link { index, .. }) = found.first().and_then(Link::parse) else {
            return Ok(None);
        };
        let mut message = link::delete_index(index, name);
        let (seq, request) = socket.seal(&mut message);
        Ok(Some(Self {
            socket,
            index,
            seq,
            request,
            what: message.what,
        }))
    }

    /// Asks the kernel. Returns when it has freed everything, or refused: [`Deletion::seen`] hears which.
    ///
    /// # Errors
    /// When nothing can be sent.
    pub fn ask(&self) -> Result<(), Error> {
        self.socket.send_all(&self.request)
    }

    /// Waits until the link is gone, while `asker` asks (a pidfd).
    ///
    /// # Errors
    /// When the kernel refuses, or `asker` ends without an answer.
    pub fn seen(mut self, asker: BorrowedFd<'_>) -> Result<(), Error> {
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(asker, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| poll(&mut fds, None)).map_err(Error::socket("poll"))?;
            let [socket, _] = &mut fds;
            if socket.revents().is_empty() {
                // It has ended. What it caused is in the queue now, if not at the first look.
                let last = &mut [socket.clone()];
                if poll(last, Some(&Timespec::default())).map_err(Error::socket("poll"))? == 0 {
                    return Err(Error::Unanswered(self.what));
                }
            }
            match self.socket.gone(self.index, self.seq) {
                Ok(None) => {}
                Ok(Some(None)) => return Ok(()),
                // Somebody else deleted it.
                Ok(Some(Some(Errno::NODEV))) => return Ok(()),
                Ok(Some(Some(errno))) => return Err(Error::Refused { what: self.what, errno }),
                // Too much news at once: the answer to the request is never dropped.
                Err(error) if error.errno() == Some(Errno::NOBUFS.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Deletion {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_not_there_is_none() {
        assert!(Deletion::prepare("no-such-if0").unwrap().is_none());
    }

    #[test]
    fn a_refusal_and_a_sender_that_says_nothing_are_heard() {
        // Nobody may delete lo: the kernel answers EOPNOTSUPP, or EPERM to who is not root.
        let lo = Deletion::prepare("lo").unwrap().unwrap();
        let this =
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).unwrap();
        lo.ask().unwrap();
        let error = lo.seen(this.as_fd()).unwrap_err();
        assert!(error.errno().is_some(), "{error}");

        let lo = Deletion::prepare("lo").unwrap().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let gone = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        let error = lo.seen(gone.as_fd()).unwrap_err();
        assert!(matches!(error, Error::Unanswered(_)), "{error}");
    }
}
