//! Exec and attach over SPDY: waits until the client has opened one stream for each of error,
//! stdin, stdout, stderr and resize that the session has, then runs it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, Incoming};
use super::frame::Reset;
use crate::backend::Backend;
use crate::session::{self, Channels, Job, Service};
use crate::status::Format;

/// How long a client may take to open its streams.
pub(super) const CREATION: Duration = Duration::from_secs(30);

/// Serves one upgraded connection until its session is over.
pub(crate) async fn serve<B, I>(io: I, job: Job, status: Format, resize: bool, service: Service<B>)
where
    B: Backend,
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut connection = Connection::open(io);
    match tokio::time::timeout(CREATION, collect(&mut connection, &job, status, resize)).await {
        Ok(Some(channels)) => {
            connection.incoming.close();
            session::run(&service, job, connection.link.clone(), channels).await;
        }
        Ok(None) => {}
        Err(_) => tracing::debug!("client did not open its streams in time"),
    }
    connection.close().await;
}

/// The session's channels, or `None` if the client left first.
async fn collect(connection: &mut Connection, job: &Job, status: Format, resize: bool) -> Option<Channels> {
    let wants = job.wants();
    let mut missing = 1 + [wants.stdin, wants.stdout, wants.stderr, job.tty() && resize]
        .iter()
        .filter(|w| **w)
        .count();
    let mut error = None;
    let mut channels = Channels {
        status,
        ..Channels::default()
    };
    while missing > 0 {
        let Incoming {
            id, headers, inbound, ..
        } = tokio::select! {
            arrived = connection.incoming.recv() => arrived?,
            () = connection.link.gone.cancelled() => return None,
        };
        let taken = match headers.get("streamtype") {
            "error" => error.replace(id).is_none(),
            "stdin" if wants.stdin => channels.stdin.replace((id, inbound)).is_none(),
            "stdout" if wants.stdout => channels.stdout.replace(id).is_none(),
            "stderr" if wants.stderr => channels.stderr.replace(id).is_none(),
            "resize" if job.tty() && resize => channels.resize.replace((Some(id), inbound)).is_none(),
            _ => {
                connection.refuse(id, Reset::RefusedStream).await;
                continue;
            }
        };
        if !taken {
            connection.refuse(id, Reset::ProtocolError).await;
            return None;
        }
        connection.accept(id).await;
        missing -= 1;
    }
    channels.error = error?;
    Some(channels)
}
