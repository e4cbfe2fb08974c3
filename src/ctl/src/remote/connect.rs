//! Opens a WebSocket, over TLS where the URL says https. As with crictl, the server's certificate
//! is checked only if a CA is named: the URL came over the local socket from the server itself.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use http::{HeaderValue, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_websockets::{ClientBuilder, Limits, WebSocketStream};

/// Flags about TLS of the streaming server.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TlsFlags {
    /// Server name used in the TLS client to check server certificates against
    #[arg(long, alias = "tls-server-name", value_name = "NAME", default_value = "localhost")]
    tls_sni: String,
    /// Path to the streaming TLS CA certificate
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Path to the streaming TLS certificate
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Path to the streaming TLS key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// A connected byte stream.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(crate) type Socket = WebSocketStream<Box<dyn Io>>;

/// Opens `url` with the first of `protocols` that the server knows; which one that is.
pub(crate) async fn websocket(url: &str, protocols: &str, tls: &TlsFlags) -> Result<(Socket, String)> {
    let uri: Uri = url.parse().with_context(|| format!("streaming URL {url:?}"))?;
    let host = uri
        .host()
        .with_context(|| format!("streaming URL {url:?} names no host"))?;
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((bare, port))
        .await
        .with_context(|| format!("connect to {host}:{port}"))?;
    tcp.set_nodelay(true)?;
    let io: Box<dyn Io> = if secure {
        Box::new(secured(tcp, tls).await?)
    } else {
        Box::new(tcp)
    };
    let builder = ClientBuilder::from_uri(uri)
        .limits(Limits::default().max_payload_len(Some(64 << 20)))
        .add_header(http::header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocols)?)
        .map_err(|error| anyhow!("{error}"))?;
    let (socket, response) = builder
        .connect_on(io)
        .await
        .map_err(|error| anyhow!("unable to upgrade connection: {error}"))?;
    let agreed = response.headers().get(http::header::SEC_WEBSOCKET_PROTOCOL);
    Ok((
        socket,
        agreed
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
    ))
}

async fn secured(tcp: TcpStream, flags: &TlsFlags) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(flags.tls_sni.clone()).with_context(|| format!("--tls-sni {:?}", flags.tls_sni))?;
    let connector = TlsConnector::from(Arc::new(config(flags)?));
    connector.connect(name, tcp).await.context("TLS handshake")
}

fn config(flags: &TlsFlags) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &flags.tls_ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path).with_context(|| path.display().to_string())? {
                roots.add(certificate.with_context(|| path.display().to_string())?)?;
            }
            if roots.is_empty() {
                bail!("{} holds no certificate", path.display());
            }
            builder.with_root_certificates(roots)
        }
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
    };
    match (&flags.tls_cert, &flags.tls_key) {
        (Some(certificate), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .with_context(|| certificate.display().to_string())?;
            let key = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
            Ok(builder.with_client_auth_cert(chain, key)?)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// Takes any certificate, but checks that the server has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
