//! Channels in WebSocket messages: one byte of channel and the data, or one digit and base64.
//! In version 5 the message `255, n` ends channel n.
//!
//! One task owns the socket. It never waits for a slow channel while it could write, nor the
//! other way round: a process that waits for its output to be taken would otherwise never take
//! its input. Pongs are flushed before the next message is read, so a client that pings without
//! reading is held back (CVE-2019-9512 class).

use std::ops::ControlFlow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;
use tokio_websockets::{CloseCode, Message, WebSocketStream};

use crate::activity::Activity;
use crate::link::{Chunk, Inbound, KEEPALIVE, Link, Out, Then};
use crate::negotiate::WsVersion;

/// Messages that wait for one slow channel. Each may be as large as `MAX_MESSAGE`.
const MESSAGES: usize = 2;
const CLOSE_SIGNAL: u8 = 255;

/// A connection's task.
pub(super) struct Driver<I> {
    socket: WebSocketStream<I>,
    version: WsVersion,
    /// By channel; `None` for one that the client does not write to.
    feeds: Vec<Option<mpsc::Sender<Chunk>>>,
    queue: mpsc::Receiver<Out>,
    gone: CancellationToken,
    activity: Activity,
}

/// Where a message goes.
#[derive(Debug, PartialEq, Eq)]
enum Received {
    Data {
        channel: usize,
        data: Bytes,
    },
    End {
        channel: usize,
    },
    Nothing,
    /// Against the protocol.
    Bad(&'static str),
}

impl<I: AsyncRead + AsyncWrite + Unpin> Driver<I> {
    /// A driver and what the session needs. `readable` says which channels the client writes to.
    pub(super) fn new(io: I, version: WsVersion, readable: &[bool]) -> (Self, Link, Vec<Option<Inbound>>) {
        let gone = CancellationToken::new();
        let (link, queue) = Link::new(gone.clone());
        let (feeds, inbounds) = readable
            .iter()
            .map(|yes| yes.then(|| Inbound::new(MESSAGES)).unzip())
            .unzip();
        let activity = link.activity.clone();
        (
            Self {
                socket: super::upgraded(io),
                version,
                feeds,
                queue,
                gone,
                activity,
            },
            link,
            inbounds,
        )
    }

    /// Runs until the session has dropped its link or the client has left.
    pub(super) async fn run(mut self) {
        // Whatever ended it, the session learns it by `gone` and by the end of its channels.
        let ended = self.relay().await;
        self.feeds.clear();
        if ended.is_err() {
            self.gone.cancel();
            return;
        }
        let farewell = async {
            let close = Message::close(Some(CloseCode::NORMAL_CLOSURE), "");
            if self.socket.send(close).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        farewell.await;
        self.gone.cancel();
    }

    /// `Ok` when the session has said everything.
    async fn relay(&mut self) -> Result<(), tokio_websockets::Error> {
        let mut keepalive = tokio::time::interval_at(tokio::time::Instant::now() + KEEPALIVE, KEEPALIVE);
        let mut waiting: Option<(mpsc::Sender<Chunk>, Chunk)> = None;
        loop {
            tokio::select! {
                out = self.queue.recv() => match out {
                    Some(out) => self.write(out).await?,
                    None => return Ok(()),
                },
                permit = reserve(waiting.as_ref()), if waiting.is_some() => {
                    if let (Ok(permit), Some((_, chunk))) = (permit, waiting.take()) {
                        permit.send(chunk);
                    }
                }
                message = self.socket.next(), if waiting.is_none() => {
                    let message = message.ok_or(tokio_websockets::Error::AlreadyClosed)??;
                    match self.take(message).await? {
                        ControlFlow::Continue(next) => waiting = next,
                        ControlFlow::Break(why) => {
                            tracing::debug!(why, "WebSocket connection given up");
                            self.socket.send(Message::close(Some(CloseCode::PROTOCOL_ERROR), why)).await?;
                            return Err(tokio_websockets::Error::AlreadyClosed);
                        }
                    }
                }
                _ = keepalive.tick() => self.socket.send(Message::ping(Bytes::new())).await?,
            }
        }
    }

    async fn write(&mut self, out: Out) -> Result<(), tokio_websockets::Error> {
        // An end has no message of its own; an empty open piece is the greeting.
        if out.data.is_empty() && out.then != Then::Open {
            return Ok(());
        }
        self.activity.touch();
        self.socket.send(encode(self.version, &out)).await
    }

    /// Passes a message on; what its channel has no room for is given back.
    async fn take(
        &mut self,
        message: Message,
    ) -> Result<ControlFlow<&'static str, Option<(mpsc::Sender<Chunk>, Chunk)>>, tokio_websockets::Error> {
        if message.is_ping() {
            self.socket.flush().await?;
        }
        match decode(self.version, &message) {
            Received::Nothing => {}
            Received::Bad(why) => return Ok(ControlFlow::Break(why)),
            Received::End { channel } => match self.feeds.get_mut(channel) {
                Some(feed) => *feed = None,
                None => return Ok(ControlFlow::Break("close signal for a channel that does not exist")),
            },
            Received::Data { channel, data } => {
                self.activity.touch();
                let Some(Some(feed)) = self.feeds.get(channel) else {
                    return Ok(ControlFlow::Continue(None));
                };
                match feed.try_send(Chunk { data, room: None }) {
                    Err(TrySendError::Full(chunk)) => return Ok(ControlFlow::Continue(Some((feed.clone(), chunk)))),
                    // Nobody reads this channel any more.
                    Ok(()) | Err(TrySendError::Closed(_)) => {}
                }
            }
        }
        Ok(ControlFlow::Continue(None))
    }
}

async fn reserve(waiting: Option<&(mpsc::Sender<Chunk>, Chunk)>) -> Result<mpsc::OwnedPermit<Chunk>, ()> {
    match waiting {
        Some((feed, _)) => feed.clone().reserve_owned().await.map_err(|_| ()),
        None => Err(()),
    }
}

fn encode(version: WsVersion, out: &Out) -> Message {
    let channel = u8::try_from(out.channel).unwrap_or(u8::MAX);
    if version.base64 {
        let mut text = String::with_capacity(1 + out.data.len().div_ceil(3) * 4);
        text.push(char::from(b'0'.wrapping_add(channel)));
        STANDARD.encode_string(&out.data, &mut text);
        Message::text(text)
    } else {
        let mut bytes = BytesMut::with_capacity(1 + out.data.len());
        bytes.extend_from_slice(&[channel]);
        bytes.extend_from_slice(&out.data);
        Message::binary(bytes.freeze())
    }
}

fn decode(version: WsVersion, message: &Message) -> Received {
    if !message.is_binary() && !message.is_text() {
        return Received::Nothing;
    }
    let payload: &[u8] = message.as_payload();
    let Some((first, rest)) = payload.split_first() else {
        return Received::Nothing;
    };
    if version.close_signal && *first == CLOSE_SIGNAL {
        return match rest {
            [channel] => Received::End {
                channel: usize::from(*channel),
            },
            _ => Received::Bad("close signal without one channel"),
        };
    }
    if version.base64 {
        match STANDARD.decode(rest) {
            Ok(data) => Received::Data {
                channel: usize::from(first.wrapping_sub(b'0')),
                data: Bytes::from(data),
            },
            Err(_) => Received::Bad("data is not base64"),
        }
    } else {
        Received::Data {
            channel: usize::from(*first),
            data: Bytes::copy_from_slice(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Format;

    const V5: WsVersion = WsVersion {
        base64: false,
        close_signal: true,
        status: Format::Json,
    };
    const BASE64: WsVersion = WsVersion {
        base64: true,
        close_signal: false,
        status: Format::Text,
    };

    #[test]
    fn binary_and_base64_round_trip() {
        for version in [V5, BASE64] {
            let out = Out {
                channel: 3,
                data: Bytes::from_static(b"foo\n\0\xff"),
                then: Then::Open,
            };
            let message = encode(version, &out);
            assert_eq!(message.is_text(), version.base64);
            assert_eq!(
                decode(version, &message),
                Received::Data {
                    channel: 3,
                    data: out.data
                }
            );
        }
    }

    #[test]
    fn the_close_signal_is_of_version_5_alone() {
        let signal = Message::binary(Bytes::from_static(&[255, 0]));
        assert_eq!(decode(V5, &signal), Received::End { channel: 0 });
        let v4 = WsVersion {
            close_signal: false,
            ..V5
        };
        assert_eq!(
            decode(v4, &signal),
            Received::Data {
                channel: 255,
                data: Bytes::from_static(&[0])
            }
        );
        assert!(matches!(
            decode(V5, &Message::binary(Bytes::from_static(&[255]))),
            Received::Bad(_)
        ));
        assert!(matches!(
            decode(BASE64, &Message::text("0!!!".to_owned())),
            Received::Bad(_)
        ));
        assert_eq!(decode(V5, &Message::binary(Bytes::new())), Received::Nothing);
    }
}
