//! Everything that a verb works with, built once.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use config::{Config, Paths};
use proto::cri;

use crate::container::plan::HostFacts;
use crate::error::Error;
use crate::handler::{Handler, Handlers};
use crate::monitor::Spawner;
use crate::store::db::Db;
use crate::store::index::Index;
use crate::store::names::Names;
use crate::{host, restore};

/// What the daemon hands over: the other crates' parts, already running.
#[derive(Debug)]
pub struct Parts {
    /// The effective configuration.
    pub config: Config,
    /// Images.
    pub images: Arc<image::Store>,
    /// Pod networks.
    pub cni: Arc<cni_invoke::Cni>,
    /// The streaming server, which makes the URLs.
    pub stream: Arc<stream::Server>,
    /// The `bulkhead-conmon` program.
    pub monitor: PathBuf,
}

/// The request that made a container, without what the pod already says.
#[derive(Debug, PartialEq)]
pub(crate) struct CreateRequest {
    pub(crate) sandbox_id: String,
    pub(crate) config: cri::ContainerConfig,
}

/// The CRI runtime: pods, containers and what they need.
#[derive(Debug)]
pub struct Runtime {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
    pub(crate) host: HostFacts,
    pub(crate) handlers: Handlers,
    pub(crate) boot_id: String,
    pub(crate) images: Arc<image::Store>,
    pub(crate) cni: Arc<cni_invoke::Cni>,
    pub(crate) stream: Arc<stream::Server>,
    pub(crate) cgroups: cgroup::Host,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) db: Db,
    pub(crate) index: Index,
    pub(crate) pod_names: Names<cri::RunPodSandboxRequest>,
    pub(crate) container_names: Names<CreateRequest>,
    /// What UpdateRuntimeConfig said last.
    pub(crate) pod_cidr: RwLock<String>,
}

fn directories(paths: &Paths) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let netns = PathBuf::from(config::NETNS_DIR);
    for (dir, mode) in [
        (&paths.root, 0o711),
        (&paths.state, 0o711),
        (&paths.pods(), 0o711),
        (&paths.namespaces(), 0o711),
        (&paths.containers(), 0o711),
        (&netns, 0o755),
    ] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(dir)
            .map_err(|e| Error::at("make the directory", dir.display(), &e))?;
    }
    Ok(())
}

impl Runtime {
    /// Opens the state, starts the spawner, and compares what is recorded with what is there.
    ///
    /// # Errors
    /// When the state cannot be opened or the monitor program cannot be started.
    pub async fn build(parts: Parts) -> Result<Arc<Self>, Error> {
        let Parts {
            config,
            images,
            cni,
            stream,
            monitor,
        } = parts;
        let paths = config.paths();
        directories(&paths)?;
        let cgroups = cgroup::Host::detect().map_err(|e| Error::at("look at", "the cgroups", &e))?;
        let host = host::facts(cgroups.version())?;
        let name = config.monitors_cgroup();
        let monitors = cgroups
            .create(&name)
            .map_err(|e| Error::at("make the cgroup", &name, &e))?;
        let spawner = Spawner::new(&monitor, monitors).await?;
        let (db, loaded) = Db::open(&paths.database())?;
        let runtime = Arc::new(Self {
            handlers: Handlers::new(&config)?,
            paths,
            host,
            boot_id: host::boot_id()?,
            images,
            cni,
            stream,
            cgroups,
            spawner,
            db,
            index: Index::default(),
            pod_names: Names::new("pod"),
            container_names: Names::new("container"),
            pod_cidr: RwLock::default(),
            config,
        });
        restore::restore(&runtime, loaded).await;
        Ok(runtime)
    }

    /// Waits until what was removed is off the disk, at most `limit`; for an orderly stop.
    pub fn settle(&self, limit: Duration) {
        self.images.settle(limit);
    }

    /// The handler of this name, empty for the default one.
    pub(crate) fn handler(&self, name: &str) -> Result<Arc<Handler>, Error> {
        self.handlers.find(name, &self.host)
    }
}
