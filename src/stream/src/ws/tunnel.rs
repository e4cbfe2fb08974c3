//! A byte stream in binary WebSocket messages: how port-forward's SPDY goes through proxies that
//! know WebSocket only (KEP-4006). Message boundaries mean nothing.

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio_websockets::{CloseCode, Error, Message, WebSocketStream};

use crate::backend::Backend;
use crate::link::{LINGER, PIECE, PIPE};
use crate::session::Service;

/// Serves one upgraded connection until the port-forward in it is over.
pub(crate) async fn serve<B, I>(io: I, sandbox: String, service: Service<B>)
where
    B: Backend,
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (outer, inner) = tokio::io::duplex(PIPE);
    tokio::join!(
        relay(super::upgraded(io), outer),
        crate::spdy::serve_forward(inner, sandbox, service)
    );
}

/// Copies both ways until either side has ended.
async fn relay<I: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<I>, pipe: DuplexStream) {
    let (mut from, mut to) = tokio::io::split(pipe);
    let mut waiting = Bytes::new();
    let mut buffer = BytesMut::new();
    let ended: Result<(), Error> = async {
        loop {
            buffer.reserve(PIECE);
            tokio::select! {
                read = from.read_buf(&mut buffer) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    socket.send(Message::binary(buffer.split().freeze())).await?;
                }
                wrote = to.write(&waiting), if !waiting.is_empty() => {
                    // SPDY has ended: what the client still sends is discarded.
                    let n = wrote.unwrap_or(waiting.len());
                    waiting.advance(n);
                }
                message = socket.next(), if waiting.is_empty() => {
                    let message = message.ok_or(Error::AlreadyClosed)??;
                    if message.is_ping() {
                        socket.flush().await?;
                    } else if message.is_binary() {
                        waiting = Bytes::from(message.into_payload());
                    } else if message.is_text() {
                        return Err(Error::AlreadyClosed);
                    }
                }
            }
        }
    }
    .await;
    // For SPDY this is the end of its connection. It fails only if SPDY has ended first.
    to.shutdown().await.ok();
    if ended.is_ok() {
        let farewell = async {
            if socket
                .send(Message::close(Some(CloseCode::NORMAL_CLOSURE), ""))
                .await
                .is_ok()
            {
                while let Some(Ok(_)) = socket.next().await {}
            }
        };
        tokio::time::timeout(LINGER, farewell).await.ok();
    }
}
