//! A gRPC connection to a daemon's socket: one HTTP/2 connection, no pool, no retry.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tower_service::Service;

use crate::socket;

/// The connection; what tonic's clients call.
#[derive(Debug, Clone)]
pub(crate) struct Connection(SendRequest<Body>);

/// Connects to the daemon at `path`.
pub(crate) async fn connect(path: &Path) -> anyhow::Result<Connection> {
    let stream = socket::connect(path).with_context(|| format!("no daemon answers on {}", path.display()))?;
    stream.set_nonblocking(true)?;
    let stream = TokioIo::new(tokio::net::UnixStream::from_std(stream)?);
    let (sender, connection) = handshake(TokioExecutor::new(), stream).await.context("begin HTTP/2")?;
    tokio::spawn(async move {
        // The caller of the request that this ends hears of it there.
        connection.await.unwrap_or_default();
    });
    Ok(Connection(sender))
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // HTTP/2 wants scheme and authority; a unix socket has neither.
        let path = request.uri().path_and_query().cloned();
        let uri = http::Uri::builder().scheme("http").authority("localhost");
        let sent = match uri
            .path_and_query(path.map_or_else(|| "/".to_owned(), |path| path.to_string()))
            .build()
        {
            Ok(uri) => {
                *request.uri_mut() = uri;
                self.0.send_request(request)
            }
            // Path and query came out of a Uri, so they fit into one; send as it is.
            Err(_) => self.0.send_request(request),
        };
        Box::pin(sent)
    }
}
