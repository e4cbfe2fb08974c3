//! The listener: one HTTP/1.1 request for each connection, which is upgraded or refused.
//!
//! Nothing is answered but a path with a valid token (404), by GET or POST (405), with headers
//! that `negotiate` accepts; no redirect is ever sent, and a refusal closes the connection
//! (CVE-2018-1002105, CVE-2020-8559). Before the upgrade a connection is one of `MAX_WAITING` and
//! has `REQUEST` to send its headers; after it, sessions are bounded by the tokens handed out.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use spec::Kind;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{AttachParams, Backend, BackendError, ExecParams, PortForwardParams, Wants};
use crate::negotiate::{self, Protocol, Purpose, Refused};
use crate::session::{Job, Service};
use crate::tls::{Tls, TlsOptions};
use crate::token::{Ticket, Tokens};
use crate::{spdy, ws};

/// Connections that have not been upgraded yet.
const MAX_WAITING: usize = 256;
/// How long a client may take for its TLS handshake, and for its request.
const REQUEST: Duration = Duration::from_secs(10);
/// Largest head of a request.
const MAX_HEAD: usize = 64 * 1024;
/// How long `serve` waits for sessions that were told to end.
const DRAIN: Duration = Duration::from_secs(5);

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// TLS if given.
    pub tls: Option<TlsOptions>,
    /// A session that moves no byte for so long is ended; zero means never.
    pub idle_timeout: Duration,
    /// How long a URL waits for its client.
    pub token_ttl: Duration,
}

/// The streaming server.
#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    base: String,
    address: SocketAddr,
    tls: Option<Tls>,
    idle: Duration,
    tokens: Tokens,
}

impl Server {
    /// Listens, and reads the certificate. Serves nothing yet, but URLs may be handed out.
    ///
    /// # Errors
    /// The address is taken or not ours; the certificate or key cannot be used.
    pub fn bind(options: Options) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tls = options.tls.map(Tls::load).transpose()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", reachable(address));
        Ok(Self {
            listener,
            base,
            address,
            tls,
            idle: options.idle_timeout,
            tokens: Tokens::new(options.token_ttl),
        })
    }

    /// The address listened on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A one-time URL for an exec.
    ///
    /// # Errors
    /// The parameters make no session (`InvalidArgument`), or too many URLs wait (`ResourceExhausted`).
    pub fn exec_url(&self, params: ExecParams) -> Result<String, BackendError> {
        check(params.wants, params.tty)?;
        self.url(Ticket::Exec(params))
    }

    /// A one-time URL for an attach.
    ///
    /// # Errors
    /// As `exec_url`.
    pub fn attach_url(&self, params: AttachParams) -> Result<String, BackendError> {
        check(params.wants, params.tty)?;
        self.url(Ticket::Attach(params))
    }

    /// A one-time URL for a port-forward.
    ///
    /// # Errors
    /// As `exec_url`.
    pub fn port_forward_url(&self, params: PortForwardParams) -> Result<String, BackendError> {
        self.url(Ticket::PortForward(params))
    }

    fn url(&self, ticket: Ticket) -> Result<String, BackendError> {
        let verb = ticket.verb();
        let token = self.tokens.insert(ticket)?;
        Ok(format!("{}/{verb}/{token}", self.base))
    }

    /// Serves until `cancel`; then ends all sessions and returns.
    pub async fn serve<B: Backend>(self: Arc<Self>, backend: Arc<B>, cancel: CancellationToken) {
        let listener = match self.listener.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "streaming server cannot use its listener");
                return;
            }
        };
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        let tasks = TaskTracker::new();
        let sessions = cancel.child_token();
        let accept = async {
            loop {
                let Ok(permit) = Arc::clone(&waiting).acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((socket, _)) => {
                        let context = Context {
                            server: Arc::clone(&self),
                            backend: Arc::clone(&backend),
                            tasks: tasks.clone(),
                            cancel: sessions.clone(),
                        };
                        let stop = sessions.clone();
                        tasks.spawn(async move { stop.run_until_cancelled(context.connection(socket, permit)).await });
                    }
                    // EMFILE and the like pass: serving goes on (RUSTSEC-2024-0376).
                    Err(error) => {
                        tracing::warn!(%error, "streaming server cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        cancel.run_until_cancelled(accept).await;
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::warn!(sessions = tasks.len(), "streaming sessions did not end in time");
        }
    }
}

fn check(wants: Wants, tty: bool) -> Result<(), BackendError> {
    let message = if tty && wants.stderr {
        "tty and stderr cannot both be true: a terminal has one output"
    } else if !(wants.stdin || wants.stdout || wants.stderr) {
        "one of stdin, stdout or stderr must be true"
    } else {
        return Ok(());
    };
    Err(BackendError {
        kind: Kind::InvalidArgument,
        message: message.to_owned(),
    })
}

/// The address that this node's kubelet can connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What a connection needs.
struct Context<B> {
    server: Arc<Server>,
    backend: Arc<B>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl<B> Clone for Context<B> {
    fn clone(&self) -> Self {
        Self {
            server: Arc::clone(&self.server),
            backend: Arc::clone(&self.backend),
            tasks: self.tasks.clone(),
            cancel: self.cancel.clone(),
        }
    }
}

/// A session to start once the 101 is out.
struct Session {
    ticket: Ticket,
    protocol: Protocol,
    ports: Vec<u16>,
}

impl<B: Backend> Context<B> {
    async fn connection(self, socket: TcpStream, permit: OwnedSemaphorePermit) {
        // Keystrokes and single answers are small: they must not wait for more.
        socket.set_nodelay(true).ok();
        match &self.server.tls {
            None => self.http(socket).await,
            Some(tls) => match tokio::time::timeout(REQUEST, tls.accept(socket)).await {
                Ok(Ok(stream)) => self.http(stream).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            },
        }
        drop(permit);
    }

    async fn http<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, io: I) {
        let service = service_fn(move |request| {
            let response = self.respond(request);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        match tokio::time::timeout(3 * REQUEST, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "streaming request failed"),
            Err(_) => tracing::debug!("streaming request took too long"),
        }
    }

    fn respond(&self, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        match self.admit(&request) {
            Ok((session, headers)) => {
                let upgrade = hyper::upgrade::on(&mut request);
                let (context, stop) = (self.clone(), self.cancel.clone());
                self.tasks.spawn(async move {
                    let session = async move {
                        match upgrade.await {
                            Ok(io) => context.run(session, TokioIo::new(io)).await,
                            Err(error) => tracing::debug!(%error, "upgrade failed"),
                        }
                    };
                    stop.run_until_cancelled(session).await
                });
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.headers_mut() = headers;
                response
            }
            Err(refused) => {
                let mut response = Response::new(Full::from(refused.message + "\n"));
                *response.status_mut() = refused.status;
                *response.headers_mut() = refused.headers;
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                response
            }
        }
    }

    /// Takes the token and agrees on a protocol. The token is used up in any case.
    fn admit(&self, request: &Request<Incoming>) -> Result<(Session, http::HeaderMap), Box<Refused>> {
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST"));
        }
        let path = request
            .uri()
            .path()
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'));
        let ticket = path.and_then(|(verb, token)| self.server.tokens.take(verb, token));
        let ticket = ticket.ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "404 page not found"))?;
        let purpose = match ticket {
            Ticket::Exec(_) | Ticket::Attach(_) => Purpose::Command,
            Ticket::PortForward(_) => Purpose::Forward,
        };
        let accepted = negotiate::choose(request.headers(), purpose)?;
        let mut ports = Vec::new();
        if let (Ticket::PortForward(params), Protocol::Ws(_)) = (&ticket, accepted.protocol) {
            ports = if params.ports.is_empty() {
                query_ports(request.uri().query().unwrap_or(""))
            } else {
                params.ports.clone()
            };
            if ports.is_empty() || ports.len() > ws::MAX_PORTS || ports.contains(&0) {
                return Err(Refused::new(
                    StatusCode::BAD_REQUEST,
                    "between 1 and 127 ports are needed, each between 1 and 65535",
                ));
            }
        }
        Ok((
            Session {
                ticket,
                protocol: accepted.protocol,
                ports,
            },
            accepted.headers,
        ))
    }

    async fn run(self, session: Session, io: TokioIo<Upgraded>) {
        let Session {
            ticket,
            protocol,
            ports,
        } = session;
        let service = Service {
            backend: self.backend,
            idle: self.server.idle,
        };
        let job = match ticket {
            Ticket::Exec(params) => Job::Exec(params),
            Ticket::Attach(params) => Job::Attach(params),
            Ticket::PortForward(params) => {
                return match protocol {
                    Protocol::Spdy { .. } => spdy::serve_forward(io, params.sandbox_id, service).await,
                    Protocol::Tunnel => ws::serve_tunnel(io, params.sandbox_id, service).await,
                    Protocol::Ws(version) => ws::serve_forward(io, params.sandbox_id, ports, version, service).await,
                };
            }
        };
        match protocol {
            Protocol::Spdy { status, resize } => spdy::serve_command(io, job, status, resize, service).await,
            Protocol::Ws(version) => ws::serve_command(io, job, version, service).await,
            // `negotiate` agrees on a tunnel for port-forward alone.
            Protocol::Tunnel => {}
        }
    }
}

/// The ports in `port=1,2&port=3`. A value that is no port gives 0, which is refused.
fn query_ports(query: &str) -> Vec<u16> {
    let values = query.split('&').filter_map(|item| item.strip_prefix("port="));
    values
        .flat_map(|value| value.split(','))
        .take(ws::MAX_PORTS + 1)
        .map(|port| port.parse().unwrap_or(0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_query() {
        assert_eq!(query_ports("port=80,443&x=1&port=8080"), [80, 443, 8080]);
        assert_eq!(query_ports("port=65536"), [0]);
        assert!(query_ports("ports=1").is_empty());
    }

    #[test]
    fn urls_name_an_address_that_can_be_reached() {
        assert_eq!(
            reachable("0.0.0.0:10010".parse().unwrap()).to_string(),
            "127.0.0.1:10010"
        );
        assert_eq!(reachable("[::]:1".parse().unwrap()).to_string(), "[::1]:1");
        assert_eq!(reachable("10.0.0.7:1".parse().unwrap()).to_string(), "10.0.0.7:1");
    }

    #[test]
    fn streams_that_make_no_session_are_refused() {
        let all = Wants {
            stdin: true,
            stdout: true,
            stderr: true,
        };
        assert_eq!(check(all, true).unwrap_err().kind, Kind::InvalidArgument);
        check(all, false).unwrap();
        assert_eq!(check(Wants::default(), false).unwrap_err().kind, Kind::InvalidArgument);
    }
}
