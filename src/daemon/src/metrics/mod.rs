//! The Prometheus endpoint: `GET /metrics`, OpenMetrics text, nothing else; on an address, by TLS or plain, or on a
//! unix socket of root's, or both.
//!
//! HTTP/1.1 without keep-alive and with a deadline on the whole exchange: a scraper asks
//! every few seconds, and an idle or slow client must not hold a descriptor.

mod calls;
mod process;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use config::Config;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{parts, socket};

pub(crate) use calls::Calls;

/// Scrapes at a time.
const CLIENTS: usize = 16;
/// Longest exchange.
const DEADLINE: Duration = Duration::from_secs(10);
/// What a scraper looks for.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry with what the daemon itself knows.
pub(crate) fn registry() -> (Registry, Calls) {
    let mut registry = Registry::default();
    let version = [("version", crate::cmd::version::VERSION)];
    registry.register("bulkhead_build", "The version that runs", Info::new(version));
    registry.register_collector(Box::new(process::Process));
    let calls = Calls::register(&mut registry);
    (registry, calls)
}

/// Where scrapers come in.
#[derive(Debug)]
pub(crate) enum Door {
    /// An address, with TLS or without.
    Address(TcpListener, Option<Arc<stream::Tls>>),
    /// A unix socket.
    Socket(UnixListener),
}

/// Opens what the configuration names. The socket's file goes with what is answered beside.
pub(crate) async fn open(config: &Config) -> anyhow::Result<(Vec<Door>, Option<socket::Bound>)> {
    let (mut doors, mut bound) = (Vec::new(), None);
    if let Some(address) = config.metrics.listen {
        let tls = parts::tls(&config.stream, config.metrics.tls()).map(stream::Tls::load);
        let tls = tls
            .transpose()
            .context("read the certificate of the metrics (metrics.tls_cert)")?;
        doors.push(Door::Address(bind(address).await?, tls.map(Arc::new)));
    }
    if let Some(path) = &config.metrics.socket {
        let (listener, file) = socket::listen(path).context("open metrics.socket")?;
        listener
            .set_nonblocking(true)
            .context("make the socket of the metrics non-blocking")?;
        doors.push(Door::Socket(
            UnixListener::from_std(listener).context("watch the socket of the metrics")?,
        ));
        bound = Some(file);
    }
    Ok((doors, bound))
}

/// Listens at `address`.
async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen for metrics on {address} (metrics.listen)"))
}

/// A scraper's connection; TLS begins with the first byte, not here.
enum Scraper {
    Tcp(TcpStream, Option<Arc<stream::Tls>>),
    Unix(UnixStream),
}

impl Door {
    async fn accept(&self) -> io::Result<Scraper> {
        match self {
            Self::Address(listener, tls) => Ok(Scraper::Tcp(listener.accept().await?.0, tls.clone())),
            Self::Socket(listener) => Ok(Scraper::Unix(listener.accept().await?.0)),
        }
    }
}

impl Scraper {
    async fn answer(self, registry: Arc<Registry>) -> anyhow::Result<()> {
        match self {
            Self::Unix(stream) => http(stream, registry).await,
            Self::Tcp(stream, None) => http(stream, registry).await,
            Self::Tcp(stream, Some(tls)) => http(tls.accept(stream).await.context("TLS handshake")?, registry).await,
        }
    }
}

async fn http<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, registry: Arc<Registry>) -> anyhow::Result<()> {
    let answer = service_fn(move |request| {
        let answer = answer(&request, &registry);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    served.await.context("answer")
}

/// Answers until `stop`.
pub(crate) async fn serve(door: Door, registry: Arc<Registry>, stop: CancellationToken) {
    let free = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = door.accept() => accepted,
        };
        let scraper = match accepted {
            Ok(scraper) => scraper,
            Err(error) => {
                tracing::warn!(%error, "accept a scraper");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            match tokio::time::timeout(DEADLINE, scraper.answer(registry)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error = %format!("{error:#}"), "a scraper went away"),
                Err(_) => tracing::debug!("a scraper took too long"),
            }
            drop(permit);
        });
    }
}

fn answer<B: Body>(request: &Request<B>, registry: &Registry) -> Response<Full<Bytes>> {
    let (status, kind, text) = if request.uri().path() != "/metrics" {
        (
            StatusCode::NOT_FOUND,
            "text/plain",
            "only /metrics is here\n".to_owned(),
        )
    } else if request.method() != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned())
    } else {
        let mut text = String::new();
        match encode(&mut text, registry) {
            Ok(()) => (StatusCode::OK, CONTENT_TYPE, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_scraper_gets_the_counters() {
        let (registry, calls) = registry();
        calls.ended("/runtime.v1.RuntimeService/Version", None, Duration::from_millis(1));
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(Door::Address(listener, None), Arc::new(registry), stop.clone()));

        let text = ask(address, "GET /metrics").await;
        assert!(
            text.starts_with("HTTP/1.1 200") && text.contains("calls_total{operation=\"Version\"} 1"),
            "{text}"
        );
        assert!(text.contains("bulkhead_build_info{version="), "{text}");
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        stop.cancel();
        server.await.unwrap();
    }
}
