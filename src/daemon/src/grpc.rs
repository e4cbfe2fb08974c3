//! The CRI socket: HTTP/2 by hyper, each request to the service its path names.
//!
//! One task a connection; hyper runs each stream in a task of its own, so that a panic in
//! one call ends that call alone. A failed accept (EMFILE, ECONNABORTED) is waited out and
//! never ends the server (CVE-2024-47609). Where all places for connections are taken, one
//! that is idle gives way (`places`). Limits against a client that floods: streams,
//! resets, header size, a ping for those that went away silently (CVE-2023-44487,
//! CVE-2025-8671). On `stop` nothing new is accepted and calls in flight may end.

mod line;
mod places;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower_service::Service;

use self::line::{Line, Turns};
use self::places::{Place, Places};
use crate::metrics::Calls;

/// Connections at a time. The kubelet holds two; the rest is for administrators.
const CONNECTIONS: usize = 256;
/// Calls at a time on one connection: the kubelet makes one for each pod and probe.
const STREAMS: u32 = 1024;
/// Resets by the client that are not yet accounted for; hyper's own default is 20.
const PENDING_RESETS: usize = 20;
/// Resets that the client made us send, over the connection's life.
const LOCAL_RESETS: usize = 1024;
/// Bytes of all headers of a request.
const HEADERS: u32 = 64 << 10;
/// Time between pings, and for the answer to one.
const PING: Duration = Duration::from_secs(60);
/// How long calls in flight may take to end after `stop`.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a client that is to give way may take to hear of it, before it is cut off.
const LEAVE: Duration = Duration::from_millis(100);
/// Wait after an accept that failed: with no descriptor free, the next fails at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A gRPC service as tonic generates them.
pub(crate) trait Grpc:
    Service<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Grpc for S where
    S: Service<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves both services on `listener` until `stop`, then drains.
pub(crate) async fn serve<R: Grpc, I: Grpc>(
    listener: UnixListener,
    runtime: R,
    image: I,
    calls: Calls,
    stop: CancellationToken,
) {
    let services = Services { runtime, image, calls };
    let connections = TaskTracker::new();
    let mut places = Places::new(CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let place = tokio::select! {
                    () = stop.cancelled() => break,
                    place = places.take() => place,
                };
                let Some(place) = place else { break };
                connections.spawn(connection(stream, services.clone(), Arc::new(place), stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!(calls = connections.len(), "connections still busy are cut");
    }
}

/// What a connection needs of the server.
#[derive(Clone)]
struct Services<R, I> {
    runtime: R,
    image: I,
    calls: Calls,
}

async fn connection<R: Grpc, I: Grpc>(
    stream: UnixStream,
    services: Services<R, I>,
    place: Arc<Place>,
    stop: CancellationToken,
) {
    let at = Arc::clone(&place);
    let service = service_fn(move |request| counted(request, services.clone(), at.call()));
    let line = Line::new(stream);
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .max_header_list_size(HEADERS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(TokioIo::new(line.clone()), service);
    tokio::pin!(served);
    let mut turns = Turns::new(line, served);
    let leave = place.leave();
    let ended = tokio::select! {
        ended = &mut turns => ended,
        () = stop.cancelled() => {
            turns.served().graceful_shutdown();
            turns.await
        }
        () = leave.cancelled() => {
            turns.served().graceful_shutdown();
            match tokio::time::timeout(LEAVE, &mut turns).await {
                Ok(ended) => ended,
                // It does not answer, and wants nothing either.
                Err(_) if place.is_idle() => return,
                Err(_) => turns.await,
            }
        }
    };
    if let Err(error) = ended {
        // Clients that are killed end this way every day.
        tracing::debug!(%error, "a connection ended badly");
    }
}

async fn counted<R: Grpc, I: Grpc>(
    request: http::Request<Incoming>,
    services: Services<R, I>,
    call: places::Call,
) -> Result<http::Response<Body>, Infallible> {
    let (path, begun, calls) = (request.uri().path().to_owned(), Instant::now(), services.calls.clone());
    let response = route(request, services).await?;
    let counted = Counted {
        path,
        calls,
        took: begun.elapsed(),
        // A call that failed before its answer began has its code in the head ("trailers only").
        code: status_of(response.headers()),
        // An empty answer is never asked for its frames.
        finished: http_body::Body::is_end_stream(response.body()),
        _under_way: call,
    };
    Ok(response.map(|body| Body::new(ToTheEnd { body, counted })))
}

/// The gRPC code in headers or trailers.
fn status_of(headers: &http::HeaderMap) -> Option<String> {
    let code = headers.get("grpc-status")?.to_str().ok()?;
    Some(code.to_owned())
}

/// gRPC's CANCELLED: what a call ends with whose client went away.
const CANCELLED: &str = "1";

/// A call under way, until its last byte; a stream of events may take days. Counted when it is dropped, with the code
/// from its head or from its trailers, for an answer that began well may end badly.
struct Counted {
    path: String,
    calls: Calls,
    took: Duration,
    code: Option<String>,
    finished: bool,
    _under_way: places::Call,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let code = match &self.code {
            None if !self.finished => Some(CANCELLED),
            code => code.as_deref(),
        };
        self.calls.ended(&self.path, code, self.took);
    }
}

/// A body that looks at its own trailers.
struct ToTheEnd {
    body: Body,
    counted: Counted,
}

impl http_body::Body for ToTheEnd {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.counted.code = status_of(trailers);
                    self.counted.finished = true;
                }
            }
            Poll::Ready(None) => self.counted.finished = true,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

async fn route<R: Grpc, I: Grpc>(
    request: http::Request<Incoming>,
    services: Services<R, I>,
) -> Result<http::Response<Body>, Infallible> {
    let Services {
        mut runtime, mut image, ..
    } = services;
    let path = request.uri().path();
    if path.starts_with("/runtime.v1.RuntimeService/") {
        std::future::poll_fn(|context| runtime.poll_ready(context)).await?;
        runtime.call(request).await
    } else if path.starts_with("/runtime.v1.ImageService/") {
        std::future::poll_fn(|context| image.poll_ready(context)).await?;
        image.call(request).await
    } else {
        let name = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let what = format!("no service {name:?} here: runtime.v1.RuntimeService and runtime.v1.ImageService are");
        Ok(tonic::Status::unimplemented(what).into_http())
    }
}

#[cfg(test)]
mod tests;
