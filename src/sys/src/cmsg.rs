//! Descriptors over unix sockets (`SCM_RIGHTS`).
//!
//! Whatever arrives is close-on-exec from birth and owned at once. A control message that the kernel had to
//! cut (`MSG_CTRUNC`) means lost descriptors: that is an error, never a shorter list.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The most descriptors that one message carries here.
pub const MAX_FDS: usize = 64;

/// Sends `bytes`, with `fds` riding on the first of them; returns how many bytes went.
///
/// # Errors
/// `InvalidInput` for more than [`MAX_FDS`] descriptors; else what sendmsg(2) says. Never raises SIGPIPE.
pub fn send(sock: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    loop {
        match sendmsg(sock, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Receives into `buf`; returns the number of bytes (0: end of stream) and the descriptors that came along.
///
/// # Errors
/// What recvmsg(2) says; `InvalidData` where descriptors were lost because there were too many.
pub fn recv(sock: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(sock, &mut [IoSliceMut::new(buf)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "descriptors were lost: too many in one message",
        ));
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_arrive_close_on_exec() {
        let (a, b) = UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert_eq!(send(a.as_fd(), b"xy", &[read.as_fd(), write.as_fd()]).unwrap(), 2);
        let mut buf = [0; 8];
        let (n, fds) = recv(b.as_fd(), &mut buf).unwrap();
        assert_eq!((&buf[..n], fds.len()), (&b"xy"[..], 2));
        for fd in &fds {
            assert!(
                rustix::io::fcntl_getfd(fd)
                    .unwrap()
                    .contains(rustix::io::FdFlags::CLOEXEC)
            );
        }
        rustix::io::write(&fds[1], b"z").unwrap();
        assert_eq!(rustix::io::read(&read, &mut buf).unwrap(), 1);
    }

    #[test]
    fn end_of_stream_is_zero_bytes() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(a);
        assert_eq!(recv(b.as_fd(), &mut [0; 8]).unwrap().0, 0);
    }

    #[test]
    fn too_many_descriptors_are_refused() {
        let (a, _b) = UnixStream::pair().unwrap();
        let many = vec![a.as_fd(); MAX_FDS + 1];
        assert_eq!(
            send(a.as_fd(), b"x", &many).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
