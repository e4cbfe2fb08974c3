//! The daemon's configuration: defaults, file, drop-ins, flags, and every path on disk.
//!
//! Order of authority, lowest first: the defaults below, the main file, the drop-ins in
//! lexical order, the command line. Mappings merge key by key; a list replaces a list.
//! A `Config` that [`load()`] returned is valid: nothing further down checks it again.
//!
//! One list only. A key exists because `section!` names it here, with its type,
//! its default and its explanation; the struct, the reader, the merger and the reference
//! text (`bulkhead config`) all come from that one line.
//!
//! May use: `spec`.

mod device;
mod error;
mod handler;
mod load;
mod locate;
mod origin;
mod paths;
mod reference;
mod section;
mod validate;
mod value;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

pub use device::Device;
pub use error::Error;
pub use handler::{BUILT_IN_HANDLER, Handler, HandlerKind, Rlimit};
pub use load::{DEFAULT_DIR, DEFAULT_FILE, Flags, Loaded, Sources, load};
pub use origin::{Origin, Origins};
pub use paths::{NETNS_DIR, Paths};
pub use reference::{Entry, entries, reference};
pub use validate::Problem;
pub use value::{CgroupDriver, ImageVolumes, LogLevel, MissingSelinux, SeccompDefault, TlsVersion};

use section::section;

/// Four times what it takes from the cgroup to an answer of the container's program and of an exec, seen with busybox
/// (cgroup v1, x86-64): nothing ran with 192 KiB, everything with 256 KiB. There is no second program to start.
const DEFAULT_MIN_MEMORY: u64 = 1 << 20;

section! {
    /// Everything an administrator can set.
    Config, GivenConfig {
        /// Lasting state: records, image layers, writable layers of containers.
        root: PathBuf = "/var/lib/bulkhead".into();
        /// State that ends with the boot: sockets, namespaces, exit records.
        state: PathBuf = "/run/bulkhead".into();
        /// The CRI socket; null means bulkhead.sock in the state directory.
        listen: Option<PathBuf> = None;
        /// Log lines at least this serious are written: error, warn, info, debug or trace.
        log_level: LogLevel = LogLevel::Info;
        /// Cgroup of our own below the mount's root: monitors, and pods that come without a parent.
        cgroup_root: String = "bulkhead".into();
        /// Who makes cgroups, as the kubelet's cgroupDriver: cgroupfs (we do), or systemd (cgroup v2 only).
        cgroup_driver: CgroupDriver = CgroupDriver::Cgroupfs;
        /// The bulkhead-conmon program; null means the one beside the bulkhead program.
        monitor_path: Option<PathBuf> = None;
        /// Pod networks.
        cni: Cni = Cni::default();
        /// Images and registries.
        image: Image = Image::default();
        /// The server for exec, attach and port-forward.
        stream: Stream = Stream::default();
        /// How containers are made and what they get.
        runtime: Runtime = Runtime::default();
        /// The Prometheus endpoint.
        metrics: Metrics = Metrics::default();
        /// Runtime handlers beside the built-in one, by the name that a RuntimeClass uses.
        handlers: BTreeMap<String, Handler> = BTreeMap::new();
    }
}

section! {
    /// Pod networks.
    Cni, GivenCni {
        /// Directory of network configurations; the first in lexical order is used.
        conf_dir: PathBuf = "/etc/cni/net.d".into();
        /// Directories searched for plugins, first match wins.
        bin_dirs: Vec<PathBuf> = vec!["/opt/cni/bin".into()];
        /// Longest a plugin may take before its process group is killed.
        timeout_seconds: u64 = 60;
        /// Use the network of this name only; null means the first one found.
        network_name: Option<String> = None;
    }
}

section! {
    /// Images and registries.
    Image, GivenImage {
        /// Directory with a hosts.toml for each registry, in `<registry>/`: mirrors and TLS settings.
        hosts_dir: PathBuf = "/etc/bulkhead/certs.d".into();
        /// Layers of one pull that are fetched and unpacked at the same time.
        max_parallel_layers: usize = 3;
        /// A pull that receives nothing for so long is given up.
        progress_timeout_seconds: u64 = 300;
        /// References of images that are never offered for garbage collection.
        pinned: Vec<String> = Vec::new();
        /// What a VOLUME of an image becomes: bind (a directory of the container's own), mkdir (one in its root) or ignore.
        image_volumes: ImageVolumes = ImageVolumes::Bind;
    }
}

section! {
    /// The server for exec, attach and port-forward.
    Stream, GivenStream {
        /// Address it listens on; port 0 lets the kernel choose.
        listen: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        /// A session in which nothing moves for so long is closed.
        idle_timeout_seconds: u64 = 14_400;
        /// Seconds in which the one-time URL of a session must be used.
        token_ttl_seconds: u64 = 60;
        /// PEM certificate chain; null means plain HTTP.
        tls_cert: Option<PathBuf> = None;
        /// PEM private key of tls_cert.
        tls_key: Option<PathBuf> = None;
        /// Oldest version of TLS that is spoken, 1.2 or 1.3, by the metrics too.
        tls_min_version: TlsVersion = TlsVersion::V12;
        /// Cipher suites of TLS by their IANA names, of the metrics too; an empty list means all that are safe.
        tls_cipher_suites: Vec<String> = Vec::new();
    }
}

section! {
    /// How containers are made and what they get.
    Runtime, GivenRuntime {
        /// Handler of pods that name none.
        default_handler: String = BUILT_IN_HANDLER.into();
        /// Bytes of one log line; a longer one is split, with the tag P on all parts but the last.
        max_log_line: u32 = 16_384;
        /// Capabilities of a container that asks for nothing else, without the CAP_ prefix.
        default_capabilities: Vec<String> = value::DEFAULT_CAPABILITIES.iter().map(ToString::to_string).collect();
        /// Device nodes belong to the runAsUser and runAsGroup of the container that asks for them, not to the host's owner.
        device_ownership_from_security_context: bool = false;
        /// Devices of the host that every container gets, like /dev/fuse or /dev/sdc:/dev/xvdc:rw.
        additional_devices: Vec<Device> = Vec::new();
        /// Devices of the host that may be named by the annotation io.kubernetes.cri-o.Devices, where the handler lets it through.
        allowed_devices: Vec<String> = vec!["/dev/fuse".into(), "/dev/net/tun".into()];
        /// Sysctls of every pod that has the namespace they belong to, like net.core.somaxconn=1024; what a pod asks for wins.
        default_sysctls: Vec<String> = Vec::new();
        /// In a pod's own network every user may listen below port 1024 (net.ipv4.ip_unprivileged_port_start=0).
        enable_unprivileged_ports: bool = true;
        /// In a pod's own network every user may ping (net.ipv4.ping_group_range of all groups).
        enable_unprivileged_icmp: bool = true;
        /// Bytes that a memory limit of a container must have at least; a lower one is refused, 0 refuses none.
        container_min_memory: u64 = DEFAULT_MIN_MEMORY;
        /// Directories with descriptions of CDI devices; what a later one says stands against an earlier one.
        cdi_dirs: Vec<PathBuf> = vec!["/etc/cdi".into(), "/var/run/cdi".into()];
        /// Lowest id of the host that a pod's user namespace may map; 65536 keeps all of the host's own users out.
        userns_min_host_id: u32 = 1;
        /// Containers in a user namespace get a copy of their image where root's filesystem has no idmapped mounts.
        userns_copies_layers: bool = true;
        /// Profile of a container that names none: runtime_default or unconfined.
        default_seccomp: SeccompDefault = SeccompDefault::Unconfined;
        /// JSON file with the profile that RuntimeDefault means; null means our own.
        seccomp_profile: Option<PathBuf> = None;
        /// JSON file with the profile of privileged containers; null means none.
        privileged_seccomp_profile: Option<PathBuf> = None;
        /// AppArmor profile, loaded already, of a container that names none; null means our own, unconfined none.
        apparmor_profile: Option<String> = None;
        /// Containers have no AppArmor profile, and one that is asked for is refused, as on a node without AppArmor.
        disable_apparmor: bool = false;
        /// Containers have no SELinux label, and options that ask for one are ignored with a word in the log.
        disable_selinux: bool = false;
        /// SELinux options of a pod or container on a node without SELinux: refuse, or ignore with a word in the log.
        missing_selinux: MissingSelinux = MissingSelinux::Refuse;
        /// Containers on the host's network have no SELinux label, unless they ask for one.
        hostnetwork_disable_selinux: bool = false;
        /// Categories that SELinux levels of pods are made of: each pod has a pair of its own of c0 to c(N-1).
        selinux_category_range: u32 = 1024;
        /// What /etc/localtime is in containers: a zone like Europe/Berlin, Local for the host's, null for the image's.
        timezone: Option<String> = None;
    }
}

section! {
    /// The Prometheus endpoint.
    Metrics, GivenMetrics {
        /// Address of GET /metrics; null means none.
        listen: Option<SocketAddr> = None;
        /// Unix socket of GET /metrics, for root alone; null means none.
        socket: Option<PathBuf> = None;
        /// PEM certificate chain for metrics.listen; null means plain HTTP.
        tls_cert: Option<PathBuf> = None;
        /// PEM private key of metrics.tls_cert.
        tls_key: Option<PathBuf> = None;
    }
}

impl Config {
    /// Every path on disk.
    #[must_use]
    pub fn paths(&self) -> Paths {
        Paths {
            root: self.root.clone(),
            state: self.state.clone(),
        }
    }

    /// The CRI socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.listen.clone().unwrap_or_else(|| self.paths().socket())
    }

    /// Cgroup of the monitors, relative to the mount's root.
    #[must_use]
    pub fn monitors_cgroup(&self) -> String {
        let root = &self.cgroup_root;
        match self.cgroup_driver {
            CgroupDriver::Cgroupfs => format!("/{root}/monitors"),
            CgroupDriver::Systemd => format!("{}/{root}-monitors.scope", self.root_slice()),
        }
    }

    /// The slice of our own, as systemd nests it: `a-b.slice` lies in `a.slice`.
    fn root_slice(&self) -> String {
        let root = &self.cgroup_root;
        let ends = root.match_indices('-').map(|(at, _)| at).chain([root.len()]);
        ends.map(|end| format!("/{}.slice", &root[..end])).collect()
    }

    /// Parent cgroup of a pod for which CRI names none, relative to the mount's root.
    #[must_use]
    pub fn pod_cgroup(&self, pod: &spec::SandboxId) -> String {
        let root = &self.cgroup_root;
        match self.cgroup_driver {
            CgroupDriver::Cgroupfs => format!("/{root}/pods/{pod}"),
            CgroupDriver::Systemd => format!("{}/{root}-pod{pod}.slice", self.root_slice()),
        }
    }

    /// Cgroup of a container in its pod's.
    #[must_use]
    pub fn container_cgroup(&self, pod_cgroup: &str, id: &str) -> String {
        match self.cgroup_driver {
            CgroupDriver::Cgroupfs => format!("{pod_cgroup}/{id}"),
            CgroupDriver::Systemd => format!("{pod_cgroup}/bulkhead-{id}.scope"),
        }
    }

    /// The handler that a pod asks for; an empty name means the default one.
    #[must_use]
    pub fn handler(&self, name: &str) -> Option<Handler> {
        let name = if name.is_empty() {
            self.runtime.default_handler.as_str()
        } else {
            name
        };
        match self.handlers.get(name) {
            Some(handler) => Some(handler.clone()),
            None if name == BUILT_IN_HANDLER => Some(Handler::default()),
            None => None,
        }
    }

    /// Names of all handlers, the built-in one first.
    #[must_use]
    pub fn handler_names(&self) -> Vec<&str> {
        let others = self
            .handlers
            .keys()
            .map(String::as_str)
            .filter(|name| *name != BUILT_IN_HANDLER);
        std::iter::once(BUILT_IN_HANDLER).chain(others).collect()
    }
}

impl Runtime {
    /// The sysctls of every pod, by name.
    #[must_use]
    pub fn sysctls(&self) -> BTreeMap<String, String> {
        let lines = self.default_sysctls.iter();
        lines.filter_map(|line| validate::sysctl(line).ok()).collect()
    }
}

impl Cni {
    /// Longest a plugin may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }
}

impl Image {
    /// A pull that receives nothing for so long is given up.
    #[must_use]
    pub fn progress_timeout(&self) -> Duration {
        Duration::from_secs(self.progress_timeout_seconds)
    }
}

impl Stream {
    /// Idle limit of a session.
    #[must_use]
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    /// Life of a one-time URL.
    #[must_use]
    pub fn token_ttl(&self) -> Duration {
        Duration::from_secs(self.token_ttl_seconds)
    }

    /// Certificate and key, where both are set.
    #[must_use]
    pub fn tls(&self) -> Option<(PathBuf, PathBuf)> {
        self.tls_cert.clone().zip(self.tls_key.clone())
    }
}

impl Metrics {
    /// Certificate and key, where both are set.
    #[must_use]
    pub fn tls(&self) -> Option<(PathBuf, PathBuf)> {
        self.tls_cert.clone().zip(self.tls_key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().problems(), Vec::new());
    }

    #[test]
    fn a_handler_is_found_by_name_or_as_the_default() {
        let mut config = Config::default();
        config.handlers.insert("walled".into(), Handler::default());
        assert_eq!(config.handler(""), Some(Handler::default()));
        assert_eq!(config.handler("walled"), Some(Handler::default()));
        assert_eq!(config.handler("kata"), None);
        assert_eq!(config.handler_names(), ["bulkhead", "walled"]);
    }

    #[test]
    fn the_socket_follows_the_state_directory() {
        let mut config = Config {
            state: "/run/two".into(),
            ..Config::default()
        };
        assert_eq!(config.socket(), PathBuf::from("/run/two/bulkhead.sock"));
        config.listen = Some("/tmp/cri.sock".into());
        assert_eq!(config.socket(), PathBuf::from("/tmp/cri.sock"));
    }
}
