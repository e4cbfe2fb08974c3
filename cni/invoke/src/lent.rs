//! Sockets of netfilter that our plugins work with, one call each at a time.
//!
//! Whoever closes such a socket waits until what others have deleted is freed, a grace period of RCU, and holds the lock of
//! all of nftables meanwhile, for which the making of every interface waits (nft_rcv_nl_event, nf_tables_netdev_event).
//! A plugin ends with each call; here they stay open. What was in the hands of a plugin that failed may have an answer
//! waiting in it that nobody asked for, and is closed.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as Pair;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, connect, sendmsg,
    socket_with,
};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

/// Those that nobody uses now: as many as there ever were calls at once.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sockets(Arc<Mutex<Vec<OwnedFd>>>);

impl Sockets {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for a call. None where the kernel gives none: a plugin that needs one will say why.
    pub(crate) fn take(&self) -> Option<Lent> {
        let idle = self.idle().pop();
        let socket = idle.or_else(|| open().ok())?;
        Some(Lent {
            socket: Some(socket),
            of: self.clone(),
        })
    }
}

fn open() -> rustix::io::Result<OwnedFd> {
    let protocol = Some(netlink::NETFILTER);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

/// A socket in the hands of a plugin.
#[derive(Debug)]
pub(crate) struct Lent {
    socket: Option<OwnedFd>,
    of: Sockets,
}

impl Lent {
    /// The plugin did what it was asked for: the next one may have it.
    pub(crate) fn give_back(mut self) {
        self.of.idle().extend(self.socket.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        // It waits, as said above, and not here. Without a runtime nobody else does either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(socket));
        }
    }
}

/// The standard input of a plugin of ours: a socket, that descriptors can go by.
pub(crate) fn stdin() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (own, theirs) = Pair::pair()?;
    own.set_nonblocking(true)?;
    Ok((UnixStream::from_std(own)?, theirs.into()))
}

/// Tells it all of `conf`, with what it is lent.
pub(crate) async fn tell(mut to: UnixStream, conf: &[u8], lent: Option<&Lent>) -> std::io::Result<()> {
    let socket = lent.and_then(|lent| lent.socket.as_ref());
    let fds: Vec<_> = socket.iter().map(|socket| socket.as_fd()).collect();
    let first = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        Ok(sendmsg(&to, &[IoSlice::new(conf)], &mut control, SendFlags::NOSIGNAL)?)
    };
    let sent = to.async_io(Interest::WRITABLE, first).await?;
    to.write_all(&conf[sent..]).await?;
    to.shutdown().await
}
