//! Everything that a verb works with, built once.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use config::{Config, Paths};
use proto::cri;
use sys::mount::Propagation;

use crate::apart;
use crate::categories::Categories;
use crate::container::plan::HostFacts;
use crate::counters::Counters;
use crate::encoded::WholeLists;
use crate::error::Error;
use crate::events::Events;
use crate::handler::{Handler, Handlers};
use crate::kept::Places;
use crate::monitor::{Home, Spawner};
use crate::sandbox::userns;
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
    pub(crate) log_directory: String,
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
    /// Why pods cannot have user namespaces here; None where they can.
    pub(crate) no_userns: Option<String>,
    pub(crate) images: Arc<image::Store>,
    pub(crate) cni: Arc<cni_invoke::Cni>,
    pub(crate) stream: Arc<stream::Server>,
    pub(crate) cgroups: cgroup::Host,
    /// With the systemd driver alone.
    pub(crate) systemd: Option<Arc<cgroup::Systemd>>,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) db: Db,
    pub(crate) index: Index,
    pub(crate) whole_lists: WholeLists,
    pub(crate) categories: Categories,
    pub(crate) pod_names: Names<cri::RunPodSandboxRequest>,
    pub(crate) container_names: Names<CreateRequest>,
    /// What UpdateRuntimeConfig said last.
    pub(crate) pod_cidr: RwLock<String>,
    pub(crate) events: Events,
    pub(crate) counters: Counters,
    /// For what is kept open for statistics.
    pub(crate) kept: Places,
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
    // Network namespaces are to be seen wherever `/run` is, as those of `ip netns` are.
    for (dir, propagation) in [(netns, Propagation::Shared), (paths.namespaces(), Propagation::Private)] {
        if let Err(error) = apart::mount(&dir, propagation) {
            tracing::warn!(%error, "the more pods there are, the longer one takes to start");
        }
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
        let host = host::facts(&cgroups, &config.runtime)?;
        let systemd = systemd(&config, &cgroups).await?;
        let name = config.monitors_cgroup();
        let home = match &systemd {
            Some(systemd) => Home::Scope(Arc::clone(systemd), name),
            None => Home::Cgroup(
                cgroups
                    .create(&name)
                    .map_err(|e| Error::at("make the cgroup", &name, &e))?,
            ),
        };
        let spawner = Spawner::new(&monitor, home).await?;
        let layers = (paths.layers(), config.runtime.userns_copies_layers);
        let userns = userns::probe(&spawner, &paths.namespaces(), (&layers.0, layers.1)).await;
        if let Ok(Some(why)) = &userns {
            tracing::info!(%why, "images are copied for containers in user namespaces");
        }
        let no_userns = userns.err().map(|e| e.to_string());
        if let Some(why) = &no_userns {
            tracing::info!(why, "no user namespaces for pods");
        }
        let (db, loaded) = Db::open(&paths.database())?;
        let runtime = Arc::new(Self {
            handlers: Handlers::new(&config)?,
            paths,
            host,
            boot_id: host::boot_id()?,
            no_userns,
            images,
            cni,
            stream,
            cgroups,
            systemd,
            spawner,
            db,
            index: Index::default(),
            whole_lists: WholeLists::default(),
            categories: Categories::new(config.runtime.selinux_category_range),
            pod_names: Names::new("pod"),
            container_names: Names::new("container"),
            pod_cidr: RwLock::default(),
            events: Events::default(),
            counters: Counters::default(),
            kept: Places::of_this_process(),
            config,
        });
        restore::restore(&runtime, loaded).await;
        Ok(runtime)
    }

    /// Waits until what was removed is off the disk, at most `limit`, and leaves no mount without pods; for an orderly stop.
    pub fn settle(&self, limit: Duration) {
        self.images.settle(limit);
        apart::unmount(&self.paths.namespaces());
    }

    /// How often what lists show has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.index.changes() + self.db.changes()
    }

    /// The handler of this name, empty for the default one.
    pub(crate) fn handler(&self, name: &str) -> Result<Arc<Handler>, Error> {
        self.handlers.find(name, &self.host)
    }

    /// Refuses an image for a runtime handler that is not there (KEP 4216). Where it is, it makes no difference: there
    /// is one store of images for all of them.
    pub(crate) fn image_handler(&self, image: &cri::ImageSpec) -> Result<(), Error> {
        let known = self.handler(&image.runtime_handler).map(drop);
        known.map_err(|e| Error::invalid(format!("the image's runtime_handler: {e}")))
    }

    /// Ends the streams that have no end of their own, so that the server can stop.
    pub fn end_streams(&self) {
        self.events.close();
    }
}

/// The connection to systemd, where it is to make the cgroups.
async fn systemd(config: &Config, cgroups: &cgroup::Host) -> Result<Option<Arc<cgroup::Systemd>>, Error> {
    if config.cgroup_driver == config::CgroupDriver::Cgroupfs {
        return Ok(None);
    }
    if cgroups.version() == cgroup::Version::V1 {
        return Err(Error::precondition(
            "cgroup_driver: systemd needs cgroup v2 alone (systemd.unified_cgroup_hierarchy=1); this host has v1 hierarchies: use cgroupfs here and cgroupDriver: cgroupfs in the kubelet's configuration",
        ));
    }
    let systemd = cgroup::Systemd::connect().await;
    let systemd = systemd.map_err(|e| {
        Error::at("use", "the systemd cgroup driver", &e).and("use cgroup_driver: cgroupfs where systemd does not run")
    })?;
    Ok(Some(Arc::new(systemd)))
}
