//! Attach: the URL, and the relay to the monitor when the client comes with it.
//!
//! The monitor must go on logging, so it keeps the streams and gives us a SOCK_SEQPACKET
//! relay: the first byte of each packet says what it is (monitor.proto, `Attach`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use proto::cri;
use proto::monitor::{self as wire, request::Verb};
use rustix::net::{RecvFlags, SendFlags};
use spec::Kind;
use stream::{AttachParams, Size, Streams, Wants};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::exec::target;
use crate::error::Error;
use crate::fdio;
use crate::runtime::Runtime;

/// Longest packet, its first byte included.
const PACKET: usize = 16384;

const STDIN: u8 = 1;
const STDOUT: u8 = 2;
const STDERR: u8 = 3;
const RESIZE: u8 = 4;
const STDIN_END: u8 = 5;

/// How long the monitor may take to make a relay.
const DEADLINE: Duration = Duration::from_secs(10);

/// Answers Attach with a URL.
pub(crate) fn url(rt: &Runtime, request: &cri::AttachRequest) -> Result<cri::AttachResponse, Error> {
    let container = target(rt, &request.container_id)?;
    let config = container.config()?;
    if request.tty != config.tty {
        let has = if config.tty { "has" } else { "has no" };
        return Err(Error::invalid(format!(
            "container {} {has} terminal; attach with tty={}",
            container.id, config.tty
        )));
    }
    if request.stdin && !config.stdin {
        return Err(Error::invalid(format!(
            "container {} was made without stdin; attach without it",
            container.id
        )));
    }
    let params = AttachParams {
        container_id: container.id.to_string(),
        tty: request.tty,
        wants: Wants {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        },
    };
    let url = rt
        .stream
        .attach_url(params)
        .map_err(|e| Error::new(e.kind, e.message))?;
    Ok(cri::AttachResponse { url })
}

struct Relay(AsyncFd<OwnedFd>);

impl Relay {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(fdio::register(fd)?))
    }

    /// One packet; empty at the end.
    async fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let read = |fd: &AsyncFd<OwnedFd>, buffer: &mut [u8]| {
            let (n, _) = rustix::net::recv(fd.get_ref().as_fd(), &mut *buffer, RecvFlags::DONTWAIT)?;
            Ok(n)
        };
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| read(fd, buffer)) {
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(n) => return Ok(&buffer[..n?]),
                Err(_would_block) => {}
            }
        }
    }

    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| rustix::net::send(fd.get_ref().as_fd(), packet, flags).map_err(io::Error::from)) {
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(sent) => return sent.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

/// Runs an attach session until the container ends or the client leaves.
pub(crate) async fn session(rt: &Runtime, params: AttachParams, mut streams: Streams) -> Result<(), Error> {
    let container = target(rt, &params.container_id)?;
    let at = |e: &io::Error| Error::at("attach to", format!("container {}", container.id), e);
    let mut answer = container
        .monitor()?
        .call(Verb::Attach(wire::Attach {}), vec![], DEADLINE)
        .await?;
    let fd = answer
        .fds
        .pop()
        .ok_or_else(|| Error::new(Kind::Internal, "the monitor sent no relay"))?;
    let relay = Relay::new(fd).map_err(|e| at(&e))?;
    let (mut stdout, mut stderr) = (streams.stdout.take(), streams.stderr.take());
    let output = async {
        let mut buffer = vec![0u8; PACKET];
        loop {
            let packet = relay.receive(&mut buffer).await?;
            let sink = match packet.first() {
                None => return Ok(()),
                Some(&STDOUT) => &mut stdout,
                Some(&STDERR) => &mut stderr,
                Some(_) => continue,
            };
            if let Some(writer) = sink
                && writer.write_all(&packet[1..]).await.is_err()
            {
                // This client reads no more.
                return Ok(());
            }
        }
    };
    let stdin = streams.stdin.take();
    let input = async {
        if let Some(mut stdin) = stdin {
            let mut packet = vec![0u8; PACKET];
            packet[0] = STDIN;
            loop {
                match stdin.read(&mut packet[1..]).await {
                    Ok(0) => {
                        relay.send(&[STDIN_END]).await?;
                        break;
                    }
                    Ok(n) => relay.send(&packet[..=n]).await?,
                    // The client vanished: not the end of the container's stdin.
                    Err(_) => break,
                }
            }
        }
        std::future::pending::<io::Result<()>>().await
    };
    let sizes = async {
        while let Some(Size { width, height }) = streams.resize.recv().await {
            let (w, h) = (width.to_le_bytes(), height.to_le_bytes());
            relay.send(&[RESIZE, w[0], w[1], h[0], h[1]]).await?;
        }
        std::future::pending::<io::Result<()>>().await
    };
    let ended = tokio::select! {
        ended = output => ended,
        failed = input => failed,
        failed = sizes => failed,
    };
    match ended {
        // The container ended while we wrote to it.
        Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
        other => other.map_err(|e| at(&e)),
    }
}
