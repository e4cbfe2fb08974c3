//! From the configuration to what the CRI services work with: image store, CNI caller,
//! streaming server, monitor program. Each is told its own section and nothing else.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use config::Config;

/// The services' inside, and the server whose URLs they hand out.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) runtime: Arc<cri::Runtime>,
    pub(crate) stream: Arc<stream::Server>,
}

/// Builds all parts; compares what an earlier daemon left with what is there.
pub(crate) async fn build(config: Config) -> anyhow::Result<Built> {
    let monitor = monitor(&config)?;
    let images = image::Store::open(images(&config)).context("open the image store")?;
    let cni = networks(&config);
    let stream = stream::Server::bind(stream::Options {
        listen: config.stream.listen,
        tls: tls(&config.stream, config.stream.tls()),
        idle_timeout: config.stream.idle_timeout(),
        token_ttl: config.stream.token_ttl(),
    });
    let stream = stream
        .with_context(|| format!("start the streaming server on {} (stream.listen)", config.stream.listen))
        .map(Arc::new)?;
    let parts = cri::Parts {
        config,
        images,
        cni,
        stream: Arc::clone(&stream),
        monitor,
    };
    let runtime = cri::Runtime::build(parts).await.context("start the CRI services")?;
    Ok(Built { runtime, stream })
}

/// TLS with these files, as the section of the streaming server says what it is like.
pub(crate) fn tls(of: &config::Stream, files: Option<(PathBuf, PathBuf)>) -> Option<stream::TlsOptions> {
    let (certificate, key) = files?;
    Some(stream::TlsOptions {
        certificate,
        key,
        oldest: match of.tls_min_version {
            config::TlsVersion::V12 => stream::TlsVersion::V12,
            config::TlsVersion::V13 => stream::TlsVersion::V13,
        },
        suites: of.tls_cipher_suites.clone(),
    })
}

/// The caller of CNI plugins; must be called within tokio.
pub(crate) fn networks(config: &Config) -> Arc<cni_invoke::Cni> {
    cni_invoke::Cni::new(cni_invoke::Options {
        conf_dir: config.cni.conf_dir.clone(),
        bin_dirs: config.cni.bin_dirs.clone(),
        cache_dir: config.paths().cni_cache(),
        timeout: config.cni.timeout(),
        network_name: config.cni.network_name.clone(),
    })
}

fn images(config: &Config) -> image::Options {
    let mut options = image::Options::new(&config.root);
    options.hosts_dir = Some(config.image.hosts_dir.clone());
    options.max_parallel_layers = config.image.max_parallel_layers;
    options.progress_timeout = config.image.progress_timeout();
    options.pinned.clone_from(&config.image.pinned);
    options.copy_for_userns = config.runtime.userns_copies_layers;
    options
}

/// `bulkhead-conmon` where the configuration says, or beside this program.
fn monitor(config: &Config) -> anyhow::Result<PathBuf> {
    let path = match &config.monitor_path {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .context("find this program")?
            .with_file_name("bulkhead-conmon"),
    };
    ensure!(
        path.is_file(),
        "the monitor program {} is not there: put bulkhead-conmon beside bulkhead, or set monitor_path",
        path.display()
    );
    Ok(path)
}
