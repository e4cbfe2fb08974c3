//! What a wire protocol gives to a session: a bounded way out, and readers for what comes in.
//!
//! The wire's writer ends when every `Link` is dropped: dropping is how a session says that
//! it has said everything. `gone` is set by the wire when the client has left.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, DuplexStream, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::activity::Activity;

/// Largest piece that is read from a process at once.
pub(crate) const PIECE: usize = 32 * 1024;
/// Pieces that wait for a slow client, for all channels of a connection together.
pub(crate) const OUT_QUEUE: usize = 8;
/// Bytes that wait between a process's stream and its pump.
pub(crate) const PIPE: usize = 64 * 1024;

/// How long a client may take to read what is left and to close, once its session is over. A slow
/// one has megabytes before it that are in the kernel's buffers already.
pub(crate) const LINGER: Duration = Duration::from_secs(300);
/// How often a ping is written, so that a client that vanished is found out by the write.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(30);

/// What follows a piece on its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// More may come.
    Open,
    /// Nothing more from our side; the client may still send.
    End,
    /// Nothing more in either direction. Says nothing if both sides have ended already.
    Reset,
}

/// A piece for the client.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) channel: u32,
    pub(crate) data: Bytes,
    pub(crate) then: Then,
}

/// A session's hold on its connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) out: mpsc::Sender<Out>,
    pub(crate) gone: CancellationToken,
    pub(crate) activity: Activity,
}

/// The client has left.
#[derive(Debug)]
pub(crate) struct Gone;

impl Link {
    /// A link, and the end which the wire's writer reads.
    pub(crate) fn new(gone: CancellationToken) -> (Self, mpsc::Receiver<Out>) {
        let (out, queue) = mpsc::channel(OUT_QUEUE);
        (
            Self {
                out,
                gone,
                activity: Activity::new(),
            },
            queue,
        )
    }

    /// Sends one piece, waiting while the client is slow.
    pub(crate) async fn send(&self, channel: u32, data: Bytes, then: Then) -> Result<(), Gone> {
        tokio::select! {
            sent = self.out.send(Out { channel, data, then }) => sent.map_err(|_| Gone),
            () = self.gone.cancelled() => Err(Gone),
        }
    }

    /// Copies what a process writes to `channel` until it closes its end, then ends the channel.
    /// If the client leaves, `from` is dropped: the process's next write fails.
    pub(crate) async fn pump(&self, channel: u32, mut from: DuplexStream) -> Result<(), Gone> {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            let read = tokio::select! {
                read = from.read_buf(&mut buffer) => read.unwrap_or(0),
                () = self.gone.cancelled() => return Err(Gone),
            };
            if read == 0 {
                return self.send(channel, Bytes::new(), Then::End).await;
            }
            while !buffer.is_empty() {
                let piece = buffer.split_to(buffer.len().min(PIECE)).freeze();
                self.send(channel, piece, Then::Open).await?;
            }
        }
    }
}

/// Runs a wire's driver beside its session, and for `LINGER` at most after it.
pub(crate) async fn together(driver: impl Future<Output = ()>, session: impl Future<Output = ()>) {
    let over = CancellationToken::new();
    let late = async {
        over.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    let driver = async {
        tokio::select! {
            () = driver => {}
            () = late => tracing::debug!("client did not read the end of its session"),
        }
    };
    tokio::join!(driver, async {
        session.await;
        over.cancel();
    });
}

/// A piece from the client, holding its share of the connection's budget until it is consumed.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) data: Bytes,
    #[expect(dead_code, reason = "held for its drop")]
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// The client's bytes of one channel. Ends when the wire drops its sender.
#[derive(Debug)]
pub(crate) struct Inbound {
    queue: mpsc::Receiver<Chunk>,
    current: Option<Chunk>,
}

impl Inbound {
    /// A reader, and the end which the wire's reader feeds.
    pub(crate) fn new(pieces: usize) -> (mpsc::Sender<Chunk>, Self) {
        let (feed, queue) = mpsc::channel(pieces);
        (feed, Self { queue, current: None })
    }
}

impl AsyncRead for Inbound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(chunk) = &mut self.current {
                let n = chunk.data.len().min(into.remaining());
                into.put_slice(&chunk.data[..n]);
                chunk.data.advance(n);
                if chunk.data.is_empty() {
                    self.current = None;
                }
                return Poll::Ready(Ok(()));
            }
            match ready!(self.queue.poll_recv(cx)) {
                Some(chunk) if chunk.data.is_empty() => {}
                Some(chunk) => self.current = Some(chunk),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn chunk(data: &'static [u8]) -> Chunk {
        Chunk {
            data: Bytes::from_static(data),
            room: None,
        }
    }

    #[tokio::test]
    async fn inbound_joins_pieces_and_ends_with_its_feed() {
        let (feed, mut inbound) = Inbound::new(4);
        for piece in [b"ab".as_slice(), b"", b"cde"] {
            feed.send(chunk(piece)).await.unwrap();
        }
        drop(feed);
        let mut all = String::new();
        inbound.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "abcde");
    }

    #[tokio::test]
    async fn a_pump_is_held_back_by_a_client_that_does_not_read() {
        let (link, mut queue) = Link::new(CancellationToken::new());
        let (mut process, from) = tokio::io::duplex(PIPE);
        let pump = tokio::spawn(async move { link.pump(1, from).await });
        let writer = tokio::spawn(async move {
            let mut written = 0_usize;
            while tokio::time::timeout(Duration::from_millis(200), process.write_all(&[7; 4096]))
                .await
                .is_ok()
            {
                written += 4096;
            }
            written
        });
        let written = writer.await.unwrap();
        assert!(written <= (OUT_QUEUE + 2) * PIECE + PIPE, "{written}");
        let mut got = 0;
        while let Some(out) = queue.recv().await {
            got += out.data.len();
            if out.then == Then::End {
                break;
            }
        }
        // The write that was cut off by the timeout may have gone through in part.
        assert!(got >= written, "{got} of {written}");
        pump.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_leaves_breaks_the_pipe() {
        let gone = CancellationToken::new();
        let (link, _queue) = Link::new(gone.clone());
        let (mut process, from) = tokio::io::duplex(16);
        let pump = tokio::spawn(async move { link.pump(1, from).await });
        gone.cancel();
        assert!(pump.await.unwrap().is_err());
        assert_eq!(
            process.write_all(b"x").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
