//! docker-registry, started in a node's network namespace on the stored images.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::node::Node;
use crate::service::Service;
use crate::{catalog, netns, wait};

/// `bulkhead` / `keel`, as htpasswd wants it.
const HTPASSWD: &str = "bulkhead:$2y$05$abcdefghijklmnopqrstuunWxJSlbCQpsGyJ6bSMs7NJt9gnn2pti\n";

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    service: Service,
}

/// Who may pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Everyone.
    None,
    /// User `bulkhead`, password `keel`.
    Basic,
}

impl Registry {
    /// Starts a registry on `port` that serves `storage` and writes nothing to it.
    ///
    /// # Errors
    /// Where docker-registry is not installed or does not answer.
    pub fn start(node: &Node, port: u16, auth: Auth, storage: &Path) -> Result<Self> {
        let directory = node.dir().join(format!("registry-{port}"));
        fs::create_dir_all(&directory)?;
        let mut config = format!(
            "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n    maxthreads: 100\n  \
             maintenance:\n    readonly:\n      enabled: true\n    uploadpurging:\n      enabled: false\nhttp:\n  addr: 127.0.0.1:{port}\n  secret: e2e\n",
            storage.display()
        );
        if auth == Auth::Basic {
            let htpasswd = directory.join("htpasswd");
            fs::write(&htpasswd, HTPASSWD)?;
            config.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: e2e\n    path: {}\n",
                htpasswd.display()
            ));
        }
        let file = directory.join("config.yml");
        fs::write(&file, config)?;
        let mut command = node.enter("docker-registry");
        command.arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
        let service = Service::start(command, &directory.join("log"))
            .context("start docker-registry (package docker-registry; run hack/setup)")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait::blocking("docker-registry listens", Duration::from_secs(20), || {
            Ok(netns::connect(node.init(), address).ok())
        })?;
        Ok(Self { service })
    }

    /// Starts the registry of the catalogue at [`catalog::REGISTRY`].
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn catalog(node: &Node) -> Result<Self> {
        Self::start(node, 5000, Auth::None, &catalog::path()?)
    }

    /// Ends it.
    ///
    /// # Errors
    /// Where it cannot be killed.
    pub fn stop(mut self) -> Result<()> {
        self.service.kill()
    }
}
