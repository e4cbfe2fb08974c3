//! Connections: direct, or by the proxies of the environment (`HTTPS_PROXY`, `HTTP_PROXY`,
//! `ALL_PROXY`, `NO_PROXY`), and the TLS clients on top, one for each distinct [`TlsProfile`].
//!
//! Loopback registries are never asked through a proxy, as in Go.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use spec::Kind;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::error::Error;
use crate::registry::hosts::{TlsProfile, is_loopback};

type BoxError = Box<dyn StdError + Send + Sync>;
pub(crate) type HttpClient = Client<HttpsConnector<Dialer>, Full<Bytes>>;

/// More profiles than any node has; beyond it the cache starts anew.
const MAX_CLIENTS: usize = 64;

/// All TLS clients of the process, with their pools of open connections.
pub(crate) struct Clients {
    cache: Mutex<HashMap<TlsProfile, HttpClient>>,
    roots: OnceLock<Arc<RootCertStore>>,
    proxies: Arc<Matcher>,
}

impl Clients {
    pub(crate) fn new() -> Self {
        Self {
            cache: Mutex::default(),
            roots: OnceLock::new(),
            proxies: Arc::new(Matcher::from_env()),
        }
    }

    /// The client for a profile, made at its first use.
    pub(crate) fn get(&self, profile: &TlsProfile) -> Result<HttpClient, Error> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = cache.get(profile) {
            return Ok(client.clone());
        }
        if cache.len() >= MAX_CLIENTS {
            cache.clear();
        }
        let client = self.build(profile)?;
        cache.insert(profile.clone(), client.clone());
        Ok(client)
    }

    /// The header a plain-http request through a proxy must carry.
    pub(crate) fn proxy_authorization(&self, uri: &Uri) -> Option<http::HeaderValue> {
        if uri.scheme_str() != Some("http") || is_loopback(uri.authority()?.as_str()) {
            return None;
        }
        self.proxies.intercept(uri)?.basic_auth().cloned()
    }

    fn build(&self, profile: &TlsProfile) -> Result<HttpClient, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        tcp.set_connect_timeout(Some(profile.dial_timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls(profile)?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Dialer {
                tcp,
                proxies: Arc::clone(&self.proxies),
            });
        Ok(Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(8)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http1_max_headers(200)
            // Pieces of a buffer keep all of it; the default grows to 400 kB for each connection.
            .http1_max_buf_size(128 << 10)
            .http2_initial_stream_window_size(4 << 20)
            .http2_initial_connection_window_size(16 << 20)
            .build(connector))
    }

    fn tls(&self, profile: &TlsProfile) -> Result<ClientConfig, Error> {
        let bad = |what: &str, e: &dyn fmt::Display| Error::new(Kind::InvalidArgument, format!("{what}: {e}"));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| bad("TLS", &e))?;
        let builder = if profile.skip_verify {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
        } else {
            let native = self.roots.get_or_init(|| Arc::new(native_roots()));
            let mut roots = Arc::clone(native);
            if !profile.ca.is_empty() {
                let own = Arc::make_mut(&mut roots);
                for pem in &profile.ca {
                    for cert in CertificateDer::pem_slice_iter(pem) {
                        own.add(cert.map_err(|e| bad("ca", &e))?).map_err(|e| bad("ca", &e))?;
                    }
                }
            }
            builder.with_root_certificates(roots)
        };
        match &profile.client {
            None => Ok(builder.with_no_client_auth()),
            Some((cert, key)) => {
                let chain = CertificateDer::pem_slice_iter(cert)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| bad("client certificate", &e))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| bad("client key", &e))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| bad("client certificate", &e))
            }
        }
    }
}

fn native_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!(errors = ?found.errors, "the host has no certificate authorities: only registries with a `ca` of their own can be verified");
    }
    roots
}

/// `skip_verify = true` of one host's configuration, the only way to construct it.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Opens a connection to a destination, by a proxy where the environment asks for one.
#[derive(Clone)]
pub(crate) struct Dialer {
    tcp: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Service<Uri> for Dialer {
    type Response = Conn;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Conn, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, dst: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let loopback = dst.authority().is_some_and(|a| is_loopback(a.as_str()));
        let proxy = if loopback { None } else { self.proxies.intercept(&dst) };
        Box::pin(async move {
            let Some(proxy) = proxy else {
                return Ok(Conn {
                    io: tcp.call(dst).await?,
                    by_proxy: false,
                });
            };
            let address = proxy.uri().clone();
            match (address.scheme_str(), dst.scheme_str()) {
                (Some("socks5" | "socks5h"), _) => {
                    let mut socks = SocksV5::new(address, tcp);
                    if let Some((user, password)) = proxy.raw_auth() {
                        socks = socks.with_auth(user.to_owned(), password.to_owned());
                    }
                    Ok(Conn {
                        io: socks.call(dst).await?,
                        by_proxy: false,
                    })
                }
                (Some("http"), Some("https")) => {
                    let mut tunnel = Tunnel::new(address, tcp);
                    if let Some(auth) = proxy.basic_auth() {
                        tunnel = tunnel.with_auth(auth.clone());
                    }
                    Ok(Conn {
                        io: tunnel.call(dst).await?,
                        by_proxy: false,
                    })
                }
                (Some("http"), _) => Ok(Conn {
                    io: tcp.call(address).await?,
                    by_proxy: true,
                }),
                (scheme, _) => Err(format!("a proxy of scheme {scheme:?} is not supported: http or socks5 is").into()),
            }
        })
    }
}

/// A TCP connection that knows whether requests on it must name the whole URL.
pub(crate) struct Conn {
    io: TokioIo<TcpStream>,
    by_proxy: bool,
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.by_proxy)
    }
}

impl hyper::rt::Read for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
