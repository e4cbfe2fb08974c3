//! One netlink socket. A [`Batch`] of requests leaves in one `send`, in order; every reply is
//! matched by its sequence number, and the exchange ends when the last request is answered.
//!
//! The socket is connected to the kernel (port 0), so that nobody else can answer. A dump that
//! the kernel marks as interrupted is thrown away and asked again, never passed on as if it
//! were complete.

use std::sync::OnceLock;

use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send, socket_with,
};

use crate::error::Error;
use crate::message::{HEADER, Message, ne32};

const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const DUMP_INTR: u16 = libc::NLM_F_DUMP_INTR as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;
/// `RTMGRP_LINK`: links that come, change and go.
const LINK_NEWS: u32 = libc::RTMGRP_LINK as u32;
/// The kernel never makes a dump datagram larger than this.
const BUFFER: usize = 64 * 1024;

/// Requests that go out together.
#[derive(Debug, Default)]
pub struct Batch {
    messages: Vec<(Message, Option<Errno>)>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request.
    pub fn push(&mut self, message: Message) -> &mut Self {
        self.messages.push((message, None));
        self
    }

    /// Adds a request that may also end with `errno`.
    pub fn push_or(&mut self, message: Message, errno: Errno) -> &mut Self {
        self.messages.push((message, Some(errno)));
        self
    }

    /// Whether nothing is to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

/// One data message of the kernel.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Message type.
    pub kind: u16,
    /// Everything after the header.
    pub body: Vec<u8>,
}

/// What became of one request of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The data it was answered with.
    pub replies: Vec<Reply>,
    /// The error that was allowed for, where it came.
    pub tolerated: Option<Errno>,
}

/// A socket to one of the kernel's netlink protocols, in the namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
    buf: Vec<u8>,
}

/// The netfilter socket that somebody lent to this process.
static LENT: OnceLock<OwnedFd> = OnceLock::new();

/// Takes a connected netfilter socket to use instead of own ones. Whoever closes one that is nobody else's waits, under the
/// lock of all of nftables, for what others have deleted to be freed (nft_rcv_nl_event): so the lender keeps it open.
pub fn lend_netfilter(socket: OwnedFd) {
    // A second one is of no use.
    drop(LENT.set(socket));
}

/// Takes away the answers that wait in a socket: of a batch that failed and was tried again, not all were of interest, and
/// the numbers of the requests begin anew.
fn forget(fd: &OwnedFd) -> Result<(), Error> {
    loop {
        match recv(fd, [0; 1].as_mut_slice(), RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(Error::socket("recv")(errno)),
        }
    }
}

impl Socket {
    fn open(protocol: Option<rustix::net::Protocol>, groups: u32) -> Result<Self, Error> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(Error::socket("socket"))?;
        if groups != 0 {
            // Before connect, which gives the socket its own address.
            bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(Error::socket("bind"))?;
        }
        connect(&fd, &SocketAddrNetlink::new(0, 0)).map_err(Error::socket("connect"))?;
        Ok(Self {
            fd,
            seq: 0,
            buf: Vec::new(),
        })
    }

    /// Swaps the buffer that replies come to, for who keeps many sockets and asks them one behind the other: an empty one
    /// in return for one that was used keeps the memory of one.
    pub fn swap_buffer(&mut self, buffer: &mut Vec<u8>) {
        std::mem::swap(&mut self.buf, buffer);
    }

    /// A socket for links, addresses, routes.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn route() -> Result<Self, Error> {
        Self::open(None, 0)
    }

    /// A socket for nftables and conntrack: the one that was lent, whose uses must not overlap, or a new one.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn netfilter() -> Result<Self, Error> {
        let Some(lent) = LENT.get() else {
            return Self::open(Some(netlink::NETFILTER), 0);
        };
        let fd = rustix::io::fcntl_dupfd_cloexec(lent, 0).map_err(Error::socket("dup"))?;
        forget(&fd)?;
        Ok(Self {
            fd,
            seq: 0,
            buf: Vec::new(),
        })
    }

    /// A socket for links that also hears what becomes of them.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub(crate) fn links() -> Result<Self, Error> {
        Self::open(None, LINK_NEWS)
    }

    /// Completes a request that is sent by itself: its number and its bytes.
    pub(crate) fn seal(&mut self, message: &mut Message) -> (u32, Vec<u8>) {
        let seq = self.next_seq();
        (seq, message.seal(seq, ACK).to_vec())
    }

    /// Receives once: whether link `index` is gone (`Some(None)`), or request `seq` was answered.
    pub(crate) fn gone(&mut self, index: u32, seq: u32) -> Result<Option<Option<Errno>>, Error> {
        let mut outcome = None;
        self.receive(|kind, _flags, got, body| {
            if kind == ERROR && got == seq {
                outcome = Some(error_of(body));
            } else if crate::link::gone(kind, body) == Some(index) {
                outcome = Some(None);
            }
            Ok(())
        })?;
        Ok(outcome)
    }

    fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    pub(crate) fn send_all(&self, bytes: &[u8]) -> Result<(), Error> {
        let sent =
            rustix::io::retry_on_intr(|| send(&self.fd, bytes, SendFlags::empty())).map_err(Error::socket("send"))?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(Error::Malformed("the kernel took a part of a request only"))
        }
    }

    /// Receives one datagram and hands each message in it to `each` as (type, flags, seq, body).
    fn receive(&mut self, mut each: impl FnMut(u16, u16, u32, &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        // Not filled with zeros: of most of it nothing is ever used, and it would be most of a plugin's memory.
        self.buf.clear();
        self.buf.reserve(BUFFER);
        let (len, real) = rustix::io::retry_on_intr(|| recv(&self.fd, spare_capacity(&mut self.buf), RecvFlags::TRUNC))
            .map_err(Error::socket("recv"))?;
        if real > len {
            return Err(Error::Malformed("a reply was longer than any the kernel sends"));
        }
        let mut rest = self.buf.as_slice();
        while rest.len() >= HEADER {
            let size = ne32(rest) as usize;
            let Some(message) = rest.get(..size).filter(|m| m.len() >= HEADER) else {
                return Err(Error::Malformed("a message is longer than its datagram"));
            };
            let kind = u16::from_ne_bytes([message[4], message[5]]);
            let flags = u16::from_ne_bytes([message[6], message[7]]);
            each(kind, flags, ne32(&message[8..]), &message[HEADER..])?;
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends every request of `batch` in one datagram and waits for every answer.
    ///
    /// # Errors
    /// The first request that failed with an error it did not allow for. The kernel has tried
    /// the requests after it nevertheless.
    pub fn run(&mut self, batch: Batch) -> Result<Vec<Outcome>, Error> {
        let mut requests = batch.messages;
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.seq.wrapping_add(1);
        let mut bytes = Vec::with_capacity(requests.len() * 256);
        for (message, _) in &mut requests {
            let seq = self.next_seq();
            bytes.extend_from_slice(message.seal(seq, ACK));
        }
        self.send_all(&bytes)?;
        let mut outcomes: Vec<Outcome> = requests.iter().map(|_| Outcome::default()).collect();
        let mut failed: Option<(usize, Errno)> = None;
        let mut open = requests.len();
        while open > 0 {
            self.receive(|kind, _flags, seq, body| {
                let index = seq.wrapping_sub(first) as usize;
                // A late answer to an earlier exchange of this socket is not ours.
                let Some(outcome) = outcomes.get_mut(index) else {
                    return Ok(());
                };
                if kind != ERROR {
                    outcome.replies.push(Reply {
                        kind,
                        body: body.to_vec(),
                    });
                    return Ok(());
                }
                open -= 1;
                if let Some(errno) = error_of(body) {
                    if requests[index].1 == Some(errno) {
                        outcome.tolerated = Some(errno);
                    } else if failed.is_none_or(|(earlier, _)| index < earlier) {
                        failed = Some((index, errno));
                    }
                }
                Ok(())
            })?;
        }
        match failed {
            Some((index, errno)) => Err(Error::Refused {
                what: requests.swap_remove(index).0.what,
                errno,
            }),
            None => Ok(outcomes),
        }
    }

    /// Runs one request.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn one(&mut self, message: Message) -> Result<Vec<Reply>, Error> {
        let mut batch = Batch::new();
        batch.push(message);
        Ok(self
            .run(batch)?
            .into_iter()
            .next()
            .map(|outcome| outcome.replies)
            .unwrap_or_default())
    }

    /// Reads a whole table, again from the start when it changed in between.
    ///
    /// # Errors
    /// When the kernel refuses, or the table never holds still.
    pub fn dump(&mut self, message: &Message, what: &'static str) -> Result<Vec<Reply>, Error> {
        for _ in 0..20 {
            let seq = self.next_seq();
            let mut message = message.clone();
            let bytes = message.seal(seq, DUMP).to_vec();
            self.send_all(&bytes)?;
            let mut replies = Vec::new();
            let (mut done, mut interrupted, mut failed) = (false, false, None);
            while !done {
                self.receive(|kind, flags, got, body| {
                    if got != seq {
                        return Ok(());
                    }
                    interrupted |= flags & DUMP_INTR != 0;
                    match kind {
                        DONE | ERROR => {
                            done = true;
                            failed = error_of(body);
                        }
                        _ => replies.push(Reply {
                            kind,
                            body: body.to_vec(),
                        }),
                    }
                    Ok(())
                })?;
            }
            match failed {
                Some(Errno::INTR) => {}
                Some(errno) => {
                    return Err(Error::Refused {
                        what: message.what,
                        errno,
                    });
                }
                None if !interrupted => return Ok(replies),
                None => {}
            }
        }
        Err(Error::Unstable(what))
    }

    /// Sends netfilter requests as one transaction: all or nothing.
    ///
    /// The acknowledgement is asked of the last request only: the kernel works through the
    /// whole batch before it answers, errors first (nfnetlink_rcv_batch).
    ///
    /// # Errors
    /// The first request refused; then nothing of the transaction happened.
    pub fn transaction(&mut self, begin: Message, requests: Vec<Message>, end: Message) -> Result<(), Error> {
        let mut all: Vec<Message> = Vec::with_capacity(requests.len() + 2);
        all.push(begin);
        all.extend(requests);
        let last = all.len() - 1;
        all.push(end);
        let first = self.seq.wrapping_add(1);
        let mut bytes = Vec::with_capacity(all.len() * 160);
        for (index, message) in all.iter_mut().enumerate() {
            let seq = self.next_seq();
            bytes.extend_from_slice(message.seal(seq, if index == last { ACK } else { 0 }));
        }
        self.send_all(&bytes)?;
        let mut failed: Option<(usize, Errno)> = None;
        let mut done = false;
        while !done {
            self.receive(|kind, _flags, seq, body| {
                let index = seq.wrapping_sub(first) as usize;
                if kind != ERROR || index >= all.len() {
                    return Ok(());
                }
                if let Some(errno) = error_of(body)
                    && failed.is_none()
                {
                    failed = Some((index, errno));
                }
                // An error on the opening message refuses the whole batch (no permission, no
                // nf_tables); nothing need follow, and what does follow is skipped by number.
                done |= index == last || (index == 0 && failed.is_some());
                Ok(())
            })?;
        }
        match failed {
            Some((index, errno)) => Err(Error::Refused {
                what: all.swap_remove(index).what,
                errno,
            }),
            None => Ok(()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The error in the body of an `NLMSG_ERROR` or `NLMSG_DONE`; none for zero.
fn error_of(body: &[u8]) -> Option<Errno> {
    let code = body.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    (code < 0).then(|| Errno::from_raw_os_error(-code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_is_named_and_the_rest_still_answers() {
        let mut socket = Socket::route().unwrap();
        let mut batch = Batch::new();
        batch.push(crate::link::get("lo")).push(crate::link::get("no-such-if0"));
        let error = socket.run(batch).unwrap_err();
        assert!(error.is_missing(), "{error}");
        assert!(error.to_string().contains("no-such-if0"), "{error}");
        assert_eq!(socket.one(crate::link::get("lo")).unwrap().len(), 1);
    }

    #[test]
    fn what_an_earlier_user_did_not_hear_is_no_answer_to_the_next() {
        let mut socket = Socket::route().unwrap();
        let (_, request) = socket.seal(&mut crate::link::get("no-such-if0"));
        socket.send_all(&request).unwrap();
        forget(&socket.fd).unwrap();
        // Its first request has the same number.
        socket.seq = 0;
        assert_eq!(socket.one(crate::link::get("lo")).unwrap().len(), 1);
    }

    #[test]
    fn an_allowed_error_is_reported_beside_the_others() {
        let mut socket = Socket::route().unwrap();
        let mut batch = Batch::new();
        batch
            .push_or(crate::link::get("no-such-if0"), Errno::NODEV)
            .push(crate::link::get("lo"));
        let outcomes = socket.run(batch).unwrap();
        assert_eq!(outcomes[0].tolerated, Some(Errno::NODEV));
        assert_eq!(outcomes[1].replies.len(), 1);
    }
}
