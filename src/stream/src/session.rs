//! One exec or attach, protocol-free.
//!
//! Order: streams are made, the backend runs, its output is pumped until it closes it, then the
//! status is written and every channel is ended. If the client leaves first, stdin ends, output
//! breaks, and the backend has `GRACE` to finish (data that was sent before leaving still
//! arrives) before its future is dropped.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Deserialize;
use spec::Kind;
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::sync::mpsc;

use crate::backend::{AttachParams, Backend, BackendError, ExecParams, Size, Streams, Wants, Writer};
use crate::link::{Gone, Inbound, Link, PIPE, Then};
use crate::status::Format;

/// How long a backend may go on after its client has left.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// Most bytes of a terminal size that has not ended yet.
const MAX_SIZE_TEXT: usize = 1024;

/// What a connection's session needs from the server.
#[derive(Debug)]
pub(crate) struct Service<B> {
    pub(crate) backend: Arc<B>,
    /// How long it may move nothing.
    pub(crate) idle: Duration,
}

/// What is to run.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    Exec(ExecParams),
    Attach(AttachParams),
}

impl Job {
    pub(crate) fn wants(&self) -> Wants {
        match self {
            Self::Exec(params) => params.wants,
            Self::Attach(params) => params.wants,
        }
    }

    pub(crate) fn tty(&self) -> bool {
        match self {
            Self::Exec(params) => params.tty,
            Self::Attach(params) => params.tty,
        }
    }

    async fn run<B: Backend>(self, backend: &B, streams: Streams) -> Result<i32, BackendError> {
        match self {
            Self::Exec(params) => backend.exec(params, streams).await,
            Self::Attach(params) => backend.attach(params, streams).await.map(|()| 0),
        }
    }
}

/// The wire's channels of a session, by the numbers that its link knows.
#[derive(Debug)]
pub(crate) struct Channels {
    pub(crate) error: u32,
    pub(crate) status: Format,
    pub(crate) stdin: Option<(u32, Inbound)>,
    pub(crate) stdout: Option<u32>,
    pub(crate) stderr: Option<u32>,
    /// The number is there if the channel is to be ended too.
    pub(crate) resize: Option<(Option<u32>, Inbound)>,
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            error: 0,
            status: Format::Json,
            stdin: None,
            stdout: None,
            stderr: None,
            resize: None,
        }
    }
}

/// Runs the session to its end. Afterwards the caller closes the connection.
pub(crate) async fn run<B: Backend>(service: &Service<B>, job: Job, link: Link, channels: Channels) {
    let idle = service.idle;
    let Channels {
        error,
        status,
        stdin,
        stdout,
        stderr,
        resize,
    } = channels;
    let (stdin_number, stdin) = stdin.unzip();
    let (resize_number, resize) = resize.unzip();
    let (stdout_writer, stdout_from) = pipe(stdout);
    let (stderr_writer, stderr_from) = pipe(stderr);
    let (sizes, receiver) = mpsc::channel(1);
    let streams = Streams {
        stdin: stdin.map(|inbound| Box::pin(inbound) as crate::Reader),
        stdout: stdout_writer,
        stderr: stderr_writer,
        resize: receiver,
    };
    let work = async {
        let (result, ..) = tokio::join!(
            job.run(&*service.backend, streams),
            pump(&link, stdout, stdout_from),
            pump(&link, stderr, stderr_from)
        );
        result
    };
    let result = tokio::select! {
        result = work => result,
        never = resizes(resize, sizes) => match never {},
        () = left_for_good(&link) => return,
        () = link.activity.idle(idle) => Err(BackendError {
            kind: Kind::DeadlineExceeded,
            message: format!("the session was idle for {} s", idle.as_secs()),
        }),
    };
    let ends = [stdout, stderr, stdin_number, resize_number.flatten()];
    // Only a client that has left makes this fail.
    finish(&link, error, status.encode(&result), ends).await.ok();
}

async fn finish(link: &Link, error: u32, status: Bytes, ends: [Option<u32>; 4]) -> Result<(), Gone> {
    link.send(error, status, Then::End).await?;
    for channel in ends.into_iter().flatten() {
        link.send(channel, Bytes::new(), Then::End).await?;
    }
    Ok(())
}

fn pipe(channel: Option<u32>) -> (Option<Writer>, Option<DuplexStream>) {
    channel
        .map(|_| {
            let (writer, from) = tokio::io::duplex(PIPE);
            (Box::pin(writer) as Writer, from)
        })
        .unzip()
}

async fn pump(link: &Link, channel: Option<u32>, from: Option<DuplexStream>) {
    if let (Some(channel), Some(from)) = (channel, from) {
        // A client that has left is noticed by `run`.
        link.pump(channel, from).await.ok();
    }
}

async fn left_for_good(link: &Link) {
    link.gone.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

#[derive(Debug, Deserialize)]
struct WireSize {
    #[serde(rename = "Width", alias = "width", default)]
    width: u16,
    #[serde(rename = "Height", alias = "height", default)]
    height: u16,
}

/// Takes the sizes that have arrived whole out of `text` and gives the newest. Text that is not a
/// size is thrown away: a resize never ends a session.
fn newest_size(text: &mut BytesMut) -> Option<Size> {
    let mut newest = None;
    let mut items = serde_json::Deserializer::from_slice(text).into_iter::<WireSize>();
    let mut whole = 0;
    let mut rubbish = false;
    while let Some(item) = items.next() {
        match item {
            Ok(size) => {
                whole = items.byte_offset();
                if size.width > 0 || size.height > 0 {
                    newest = Some(Size {
                        width: size.width,
                        height: size.height,
                    });
                }
            }
            Err(error) => {
                rubbish = !error.is_eof();
                break;
            }
        }
    }
    if rubbish || text.len() - whole > MAX_SIZE_TEXT {
        text.clear();
    } else {
        text.advance(whole);
    }
    newest
}

/// Hands terminal sizes on; a backend that is slow gets the newest. Never returns: the end of the
/// channel ends nothing.
async fn resizes(inbound: Option<Inbound>, sizes: mpsc::Sender<Size>) -> std::convert::Infallible {
    let Some(mut inbound) = inbound else {
        drop(sizes);
        return std::future::pending().await;
    };
    let mut text = BytesMut::new();
    let mut newest = None;
    let mut open = true;
    while open || newest.is_some() {
        tokio::select! {
            read = inbound.read_buf(&mut text), if open => {
                open = !matches!(read, Ok(0) | Err(_));
                newest = newest_size(&mut text).or(newest);
            }
            permit = sizes.reserve(), if newest.is_some() => {
                // A backend that does not want them: what comes is read and forgotten.
                if let (Ok(permit), Some(size)) = (permit, newest.take()) {
                    permit.send(size);
                }
            }
        }
    }
    drop(sizes);
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_found_in_torn_and_joined_text() {
        let mut text = BytesMut::from(&b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":4"[..]);
        assert_eq!(newest_size(&mut text), Some(Size { width: 80, height: 24 }));
        assert_eq!(newest_size(&mut text), None);
        text.extend_from_slice(b"0}\n{\"width\":1,\"height\":2}");
        assert_eq!(newest_size(&mut text), Some(Size { width: 1, height: 2 }));
        assert!(text.is_empty());
    }

    #[test]
    fn rubbish_is_thrown_away_and_bounded() {
        let mut text = BytesMut::from(&b"{\"Width\":80,\"Height\":24}nonsense"[..]);
        assert_eq!(newest_size(&mut text), Some(Size { width: 80, height: 24 }));
        assert!(text.is_empty());
        text.extend_from_slice(b"{\"Width\":70000,\"Height\":24}");
        assert_eq!(newest_size(&mut text), None);
        let mut text = BytesMut::from(&b"{\"Width\": "[..]);
        text.extend_from_slice(&[b' '; 4 * MAX_SIZE_TEXT]);
        assert_eq!(newest_size(&mut text), None);
        assert!(text.len() <= MAX_SIZE_TEXT, "{}", text.len());
    }

    #[tokio::test]
    async fn a_slow_backend_gets_the_newest_size() {
        let (feed, inbound) = Inbound::new(64);
        let (sizes, mut receiver) = mpsc::channel(1);
        let relay = tokio::spawn(resizes(Some(inbound), sizes));
        for n in 1..=1000_u16 {
            let data = Bytes::from(format!("{{\"Width\":{n},\"Height\":1}}"));
            feed.send(crate::link::Chunk { data, room: None }).await.unwrap();
        }
        drop(feed);
        let mut got = Vec::new();
        while let Some(size) = receiver.recv().await {
            got.push(size.width);
        }
        assert_eq!(got.last(), Some(&1000));
        assert!(got.is_sorted());
        relay.abort();
    }
}
