//! WebSocket as Kubernetes' clients speak it: `driver` carries channels in messages, `command`
//! and `forward` are the sessions on them, `tunnel` carries a SPDY connection.

mod command;
mod driver;
mod forward;
mod tunnel;

use base64::Engine as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_websockets::{Config, Limits, ServerBuilder, WebSocketStream};

pub(crate) use command::serve as serve_command;
pub(crate) use forward::{MAX_PORTS, serve as serve_forward};
pub(crate) use tunnel::serve as serve_tunnel;

/// Largest message that a client may send: it is collected before it is passed on.
const MAX_MESSAGE: usize = 4 << 20;

/// The answer to a `Sec-WebSocket-Key` (RFC 6455, section 1.3).
pub(crate) fn accept_key(key: &str) -> String {
    let mut sha1 = sha1_smol::Sha1::new();
    sha1.update(key.as_bytes());
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(sha1.digest().bytes())
}

/// The server's side of a connection that was upgraded already.
fn upgraded<I: AsyncRead + AsyncWrite + Unpin>(io: I) -> WebSocketStream<I> {
    let limits = Limits::default().max_payload_len(Some(MAX_MESSAGE));
    ServerBuilder::new()
        .config(Config::default().frame_size(usize::MAX))
        .limits(limits)
        .serve(io)
}
