//! TLS for the listener. The certificate files are looked at on every connection and read again
//! when they have changed; files that cannot be used leave the last good ones in place.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Certificate and key, as they are now.
pub(crate) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<(Stamp, Arc<ServerConfig>)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("certificate", &self.certificate)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// What changes when a file is replaced or written to.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];

impl Tls {
    /// Reads both files.
    pub(crate) fn load(certificate: PathBuf, key: PathBuf) -> io::Result<Self> {
        let stamp = stamp(&certificate, &key);
        let config = read(&certificate, &key)?;
        Ok(Self {
            certificate,
            key,
            current: Mutex::new((stamp, config)),
        })
    }

    /// An acceptor with the newest usable files.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let now = stamp(&self.certificate, &self.key);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != now {
            // Also after a failure: it is said once for each change.
            current.0 = now;
            match read(&self.certificate, &self.key) {
                Ok(config) => current.1 = config,
                Err(error) => {
                    tracing::warn!(%error, "streaming certificate changed but cannot be used; the old one stays")
                }
            }
        }
        TlsAcceptor::from(Arc::clone(&current.1))
    }
}

fn stamp(certificate: &Path, key: &Path) -> Stamp {
    [certificate, key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    })
}

fn read(certificate: &Path, key: &Path) -> io::Result<Arc<ServerConfig>> {
    let bad = |path: &Path, error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad(certificate, &e))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, &e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|e| bad(certificate, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
