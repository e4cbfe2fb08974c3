//! The caller's side of the Container Network Interface.
//!
//! | file     | what                                                                |
//! |----------|---------------------------------------------------------------------|
//! | `conf`   | which network: configuration files found, read, chosen              |
//! | `watch`  | the same again whenever the directory changes                       |
//! | `list`   | ADD, DEL, CHECK, GC, STATUS over the plugins of a network, in order |
//! | `exec`   | one call of one plugin: environment, stdin, deadline, process group |
//! | `lent`   | sockets that our plugins work with, kept open                     |
//! | `cache`  | what was attached, on disk, in libcni's own format                  |
//!
//! State: the chosen configuration is swapped as a whole; verbs on one attachment take turns
//! (`turn`), and calls of our plugins the sockets that they are lent; nothing else is shared, so a slow plugin delays its own pod alone. The cache directory must
//! be this daemon's own: GC takes every attachment in it that is not named as valid.
//!
//! May use: cni-types, spec.

mod cache;
mod conf;
mod error;
mod exec;
mod lent;
mod list;
mod turn;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

pub use cni_types;
use serde_json::{Map, Value};

pub use crate::conf::Network;
pub use crate::error::Error;

/// What a [`Cni`] works with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where `*.conflist`, `*.conf` and `*.json` lie.
    pub conf_dir: PathBuf,
    /// Where plugins are looked for, in order.
    pub bin_dirs: Vec<PathBuf>,
    /// Where attachments are recorded, in `results/`. Must be this daemon's own.
    pub cache_dir: PathBuf,
    /// How long one plugin may take.
    pub timeout: Duration,
    /// The network to use; none for the first that is found.
    pub network_name: Option<String>,
}

/// One interface of one pod.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// Id of the pod.
    pub container_id: String,
    /// File of its network namespace. DEL works without it, and when it is gone.
    pub netns: Option<PathBuf>,
    /// Name of the interface in the pod.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// Capability arguments (`portMappings`, `bandwidth`, …); a plugin gets those it declares.
    pub capabilities: Map<String, Value>,
}

/// The networks of this node.
#[derive(Debug)]
pub struct Cni {
    options: Options,
    state: RwLock<conf::State>,
    turns: turn::Turns,
    sockets: lent::Sockets,
}

impl Cni {
    /// Reads the configuration and keeps watching it, as long as the value lives. Must be called
    /// within a tokio runtime.
    #[must_use]
    pub fn new(options: Options) -> Arc<Self> {
        let mut state = conf::State::default();
        state.update(conf::scan(&options.conf_dir, options.network_name.as_deref()));
        let cni = Arc::new(Self {
            options,
            state: RwLock::new(state),
            turns: turn::Turns::default(),
            sockets: lent::Sockets::default(),
        });
        watch::start(&cni);
        cni
    }

    /// The network that ADD would use now.
    #[must_use]
    pub fn network(&self) -> Option<Arc<Network>> {
        self.state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .current()
    }

    /// What is wrong with the configuration files, one line for each; empty when nothing is.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .problems()
    }

    /// Reads the configuration again, now.
    pub fn reload(&self) {
        let scan = conf::scan(&self.options.conf_dir, self.options.network_name.as_deref());
        self.state
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .update(scan);
    }

    fn configured(&self) -> Result<Arc<Network>, Error> {
        self.network().ok_or_else(|| Error::NoConfig {
            dir: self.options.conf_dir.clone(),
            name: self.options.network_name.clone(),
            problems: self.problems(),
        })
    }

    fn cache(&self) -> cache::Cache {
        cache::Cache::new(&self.options.cache_dir)
    }
}
