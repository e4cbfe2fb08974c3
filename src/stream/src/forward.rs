//! One forwarded TCP connection, protocol-free: the backend copies, errors go to the error
//! channel, and both channels are over when it returns.

use std::pin::pin;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, BackendError};
use crate::link::{Gone, Inbound, Link, PIPE, Then};

/// The two channels of a forwarded connection.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) data: u32,
    pub(crate) error: u32,
    pub(crate) inbound: Inbound,
    /// Cancelled when the client gives this connection up; WebSocket clients cannot.
    pub(crate) reset: Option<CancellationToken>,
}

/// Forwards until both sides have ended, the client gives up, or an error.
pub(crate) async fn run<B: Backend>(backend: &B, sandbox: &str, port: u16, link: &Link, pair: Pair) {
    let Pair {
        data,
        error,
        inbound,
        reset,
    } = pair;
    // The older WebSocket protocol knows no half-close: when the pod has ended its side, the client can
    // learn of it only by the end of the connection, and will not end its own before.
    let half_close = reset.is_some();
    let given_up = async {
        match reset {
            Some(reset) => reset.cancelled_owned().await,
            None => std::future::pending().await,
        }
    };
    let copy = async {
        let (writer, from) = tokio::io::duplex(PIPE);
        let mut forward = pin!(backend.port_forward(sandbox, port, Box::pin(inbound), Box::pin(writer)));
        // The pump ends when the backend drops or shuts its writer.
        let mut pump = pin!(link.pump(data, from));
        tokio::select! {
            result = &mut forward => {
                // Only a client that has left makes it fail.
                pump.await.ok();
                result
            }
            _ = &mut pump => if half_close { forward.await } else { Ok(()) },
        }
    };
    let result = tokio::select! {
        result = copy => result,
        () = given_up => Ok(()),
    };
    // Only a client that has left makes these fail.
    finish(sandbox, port, link, (data, error), result).await.ok();
}

async fn finish(
    sandbox: &str,
    port: u16,
    link: &Link,
    (data, error): (u32, u32),
    result: Result<(), BackendError>,
) -> Result<(), Gone> {
    let message = match result {
        Ok(()) => Bytes::new(),
        Err(why) => Bytes::from(format!("error forwarding port {port} to pod {sandbox}, uid : {why}")),
    };
    link.send(error, message, Then::End).await?;
    link.send(data, Bytes::new(), Then::End).await?;
    // Nobody reads these streams any more: where the client has not ended its side, it is told so.
    link.send(data, Bytes::new(), Then::Reset).await?;
    link.send(error, Bytes::new(), Then::Reset).await
}
