//! A connection that sends once a turn.
//!
//! HTTP/2 hands over frame by frame, each for a system call of its own, and each wakes the client up: a list of a hundred
//! pods came in five pieces. Here they are gathered until the connection's task has nothing more to do, and leave together.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// More than this is not gathered: the client has to take some of it first.
const MOST: usize = 256 << 10;
/// What is kept of the room for it: a list of a node's usual 110 pods is not copied while it grows.
const KEPT: usize = 64 << 10;

/// Both ends of the gathering: what is written to, and what sends.
#[derive(Debug, Clone)]
pub(super) struct Line(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: UnixStream,
    gathered: Mutex<Gathered>,
}

#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    sent: usize,
}

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(Arc::new(Shared {
            stream,
            gathered: Mutex::default(),
        }))
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        // One task uses it; nothing that can panic is done under the lock.
        self.0.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what was gathered; pending while the client does not take it.
    fn poll_send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.gathered();
        while gathered.sent < gathered.bytes.len() {
            match self.0.stream.try_write(&gathered.bytes[gathered.sent..]) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => gathered.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.0.stream.poll_write_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        gathered.sent = 0;
        gathered.bytes.clear();
        gathered.bytes.shrink_to(KEPT);
        Poll::Ready(Ok(()))
    }
}

/// What is served over a line; sends at the end of each of its turns, and is done when all is sent.
pub(super) struct Turns<'a, S: Future> {
    line: Line,
    served: Pin<&'a mut S>,
    ended: Option<S::Output>,
}

impl<'a, S: Future> Turns<'a, S> {
    pub(super) fn new(line: Line, served: Pin<&'a mut S>) -> Self {
        Self {
            line,
            served,
            ended: None,
        }
    }

    /// What is served.
    pub(super) fn served(&mut self) -> Pin<&mut S> {
        self.served.as_mut()
    }
}

impl<S: Future<Output: Unpin>> Future for Turns<'_, S> {
    type Output = S::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<S::Output> {
        if self.ended.is_none()
            && let Poll::Ready(output) = self.served.as_mut().poll(context)
        {
            self.ended = Some(output);
        }
        // A failure is told to what is served when it writes or reads again.
        let sent = self.line.poll_send(context);
        match (sent, self.ended.take()) {
            (Poll::Ready(_), Some(output)) => Poll::Ready(output),
            (_, ended) => {
                self.ended = ended;
                Poll::Pending
            }
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &self.0.stream;
        loop {
            ready!(stream.poll_read_ready(context))?;
            match stream.try_read(into.initialize_unfilled()) {
                Ok(count) => {
                    into.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered().bytes.len() >= MOST {
            ready!(self.poll_send(context))?;
        }
        self.gathered().bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gathered().bytes.len() >= MOST {
            ready!(self.poll_send(context))?;
        }
        let mut gathered = self.gathered();
        parts.iter().for_each(|part| gathered.bytes.extend_from_slice(part));
        Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// At the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Poll::Ready(rustix::net::shutdown(&self.0.stream, rustix::net::Shutdown::Write).map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn what_is_written_in_a_turn_arrives_at_once() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let line = Line::new(server);
        let mut writer = line.clone();
        let served = async {
            for part in [b"one ".as_slice(), b"two ", b"three"] {
                writer.write_all(part).await?;
                writer.flush().await?;
                // Nothing is sent before the turn is over.
                let mut byte = [0];
                assert!(client.try_read(&mut byte).is_err());
            }
            Ok::<_, io::Error>(())
        };
        Turns::new(line, std::pin::pin!(served)).await.unwrap();
        let mut text = [0; 64];
        assert_eq!(client.read(&mut text).await.unwrap(), 13);
        assert_eq!(&text[..13], b"one two three");
    }

    #[tokio::test]
    async fn a_client_that_takes_its_time_gets_all_of_it_and_bounds_what_is_gathered() {
        const ALL: usize = 16 * MOST + 7;
        let (mut client, server) = UnixStream::pair().unwrap();
        let line = Line::new(server);
        let mut writer = line.clone();
        let serving = tokio::spawn(async move {
            let own = line.clone();
            let served = async move {
                for at in 0..ALL {
                    writer.write_all(&[u8::try_from(at % 251).unwrap_or(0)]).await?;
                    assert!(own.gathered().bytes.len() <= MOST);
                }
                writer.shutdown().await
            };
            Turns::new(line, std::pin::pin!(served)).await
        });
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        serving.await.unwrap().unwrap();
        assert_eq!(all.len(), ALL);
        assert!(all.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
    }

    #[tokio::test]
    async fn a_client_that_is_gone_ends_it() {
        let (client, server) = UnixStream::pair().unwrap();
        let line = Line::new(server);
        let mut own = line.clone();
        drop(client);
        let served = async {
            let mut byte = [0];
            // As HTTP/2 does: it reads until the end.
            assert_eq!(own.read(&mut byte).await?, 0);
            own.write_all(b"x").await
        };
        Turns::new(line, std::pin::pin!(served)).await.unwrap();
    }
}
