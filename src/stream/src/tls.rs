//! TLS for a listener, ours or that of the metrics. The certificate files are looked at on every connection and read again
//! when they have changed; files that cannot be used leave the last good ones in place.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ServerConfig, SupportedCipherSuite};
use tokio_rustls::server::TlsStream;

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// 1.2
    #[default]
    V12,
    /// 1.3
    V13,
}

/// What TLS is to be like.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// PEM certificate chain.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// Older versions are not spoken.
    pub oldest: TlsVersion,
    /// Names (IANA's) of the cipher suites that are used; empty: all that are safe.
    pub suites: Vec<String>,
}

/// Certificate and key, as they are now.
pub struct Tls {
    options: TlsOptions,
    current: Mutex<(Stamp, Arc<ServerConfig>)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What changes when a file is replaced or written to.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// Where they cannot be used together, a suite is not known, or no suite is left for a version that is spoken.
    pub fn load(options: TlsOptions) -> io::Result<Self> {
        let stamp = stamp(&options);
        let config = read(&options)?;
        Ok(Self {
            options,
            current: Mutex::new((stamp, config)),
        })
    }

    /// The handshake with a client, with the newest usable files.
    ///
    /// # Errors
    /// Where there is no common ground.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.acceptor().accept(stream).await
    }

    fn acceptor(&self) -> TlsAcceptor {
        let now = stamp(&self.options);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != now {
            // Also after a failure: it is said once for each change.
            current.0 = now;
            match read(&self.options) {
                Ok(config) => current.1 = config,
                Err(error) => {
                    tracing::warn!(%error, "a certificate changed but cannot be used; the old one stays")
                }
            }
        }
        TlsAcceptor::from(Arc::clone(&current.1))
    }
}

fn stamp(options: &TlsOptions) -> Stamp {
    [&options.certificate, &options.key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    })
}

/// IANA's name of a suite: rustls writes TLS13_ where IANA has TLS_.
fn name(suite: &SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)
}

/// The provider with the suites that are wanted.
fn provider(options: &TlsOptions) -> io::Result<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if options.suites.is_empty() {
        return Ok(provider);
    }
    let known: Vec<String> = provider.cipher_suites.iter().map(name).collect();
    if let Some(unknown) = options.suites.iter().find(|suite| !known.contains(suite)) {
        let why = format!("{unknown:?} is no cipher suite that is used; {} are", known.join(", "));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    provider
        .cipher_suites
        .retain(|suite| options.suites.contains(&name(suite)));
    Ok(provider)
}

fn read(options: &TlsOptions) -> io::Result<Arc<ServerConfig>> {
    let TlsOptions { certificate, key, .. } = options;
    let versions: &[_] = match options.oldest {
        TlsVersion::V12 => &[&TLS12, &TLS13],
        TlsVersion::V13 => &[&TLS13],
    };
    let bad = |path: &Path, error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad(certificate, &e))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, &e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider(options)?))
        .with_protocol_versions(versions)
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|e| bad(certificate, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
