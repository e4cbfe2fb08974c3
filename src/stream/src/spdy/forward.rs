//! Port-forward over SPDY: for each forwarded TCP connection the client opens two streams, one
//! for errors and one for data, with the same `requestid` and `port`.
//!
//! Clients before Kubernetes 1.2 send no `requestid`; their two streams have neighbouring ids
//! (error n, data n + 2), from which one is made.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::command::CREATION;
use super::connection::{Connection, Incoming};
use super::frame::Reset;
use crate::backend::Backend;
use crate::forward::{self, Pair};
use crate::link::Then;
use crate::session::{GRACE, Service};

/// Serves one upgraded connection until the client leaves or nothing moves for `idle`.
pub(crate) async fn serve<B, I>(io: I, sandbox: String, service: Service<B>)
where
    B: Backend,
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut connection = Connection::open(io);
    let sandbox: Arc<str> = sandbox.into();
    let mut pairs: HashMap<String, Half> = HashMap::new();
    let mut forwards = JoinSet::new();
    let mut sweep = tokio::time::interval(CREATION / 3);
    loop {
        tokio::select! {
            arrived = connection.incoming.recv() => {
                let Some(incoming) = arrived else { break };
                if let Some((port, pair)) = join(&connection, &mut pairs, incoming).await {
                    let (backend, sandbox, link) = (Arc::clone(&service.backend), Arc::clone(&sandbox), connection.link.clone());
                    forwards.spawn(async move { forward::run(&*backend, &sandbox, port, &link, pair).await });
                }
            }
            Some(_) = forwards.join_next() => {}
            _ = sweep.tick() => give_up_halves(&connection, &mut pairs).await,
            () = connection.link.gone.cancelled() => break,
            () = connection.link.activity.idle(service.idle) => {
                tracing::debug!(sandbox = &*sandbox, "port-forward ended: idle");
                forwards.abort_all();
                break;
            }
        }
    }
    // What the client sent before it left still goes to the pod.
    let drained = async { while forwards.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        forwards.shutdown().await;
    }
    connection.close().await;
}

/// A stream whose partner has not come yet.
#[derive(Debug)]
struct Half {
    incoming: Incoming,
    since: Instant,
}

/// Sorts a new stream in. Gives the pair that it completes, if any.
async fn join(connection: &Connection, pairs: &mut HashMap<String, Half>, incoming: Incoming) -> Option<(u16, Pair)> {
    let id = incoming.id;
    let is_error = match incoming.headers.get("streamtype") {
        "error" => true,
        "data" => false,
        _ => {
            connection.refuse(id, Reset::RefusedStream).await;
            return None;
        }
    };
    let Some(port) = incoming
        .headers
        .get("port")
        .parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
    else {
        connection.refuse(id, Reset::RefusedStream).await;
        return None;
    };
    let request = match incoming.headers.get("requestid") {
        "" => format!("stream {}", if is_error { id } else { id.wrapping_sub(2) }),
        named => named.to_owned(),
    };
    connection.accept(id).await;
    let Some(half) = pairs.remove(&request) else {
        pairs.insert(
            request,
            Half {
                incoming,
                since: Instant::now(),
            },
        );
        return None;
    };
    if half.incoming.headers.get("streamtype") == incoming.headers.get("streamtype") {
        let message = format!("error processing stream for request {request}: stream already assigned");
        tell(connection, if is_error { half.incoming.id } else { id }, message).await;
        connection.refuse(id, Reset::ProtocolError).await;
        pairs.insert(request, half);
        return None;
    }
    let (error, data) = if is_error {
        (incoming, half.incoming)
    } else {
        (half.incoming, incoming)
    };
    // The data stream's port counts, as it does in Kubernetes.
    let port = if is_error {
        data.headers.get("port").parse().unwrap_or(port)
    } else {
        port
    };
    Some((
        port,
        Pair {
            data: data.id,
            error: error.id,
            inbound: data.inbound,
            reset: Some(data.reset),
        },
    ))
}

async fn give_up_halves(connection: &Connection, pairs: &mut HashMap<String, Half>) {
    let late: Vec<String> = pairs
        .iter()
        .filter(|(_, half)| half.since.elapsed() > CREATION)
        .map(|(k, _)| k.clone())
        .collect();
    for request in late {
        if let Some(half) = pairs.remove(&request) {
            tell(
                connection,
                half.incoming.id,
                format!("request {request}: timed out waiting for streams"),
            )
            .await;
        }
    }
}

async fn tell(connection: &Connection, stream: u32, message: String) {
    // If the client has gone there is nobody to tell.
    connection.link.send(stream, Bytes::from(message), Then::End).await.ok();
    connection.link.send(stream, Bytes::new(), Then::Reset).await.ok();
}
