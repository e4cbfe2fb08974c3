//! Every path on disk, as a method. Nobody else joins a name to `root` or `state`.
//!
//! ```text
//! root/    bulkhead.db  layers/  snapshots/  cni/  daemon.lock
//! state/   bulkhead.sock  daemon.lock
//!          ns/<pod>/{ipc,uts,user,shm}
//!          pods/<pod>/{resolv.conf,hostname,hosts}
//!          containers/<container>/{config.json,monitor.sock,exit.json}
//! /run/netns/<uuid>      a pod's network namespace, where `ip netns` sees it
//! ```
//!
//! All that is mounted for a pod lies below `ns` and `/run/netns`, which are mounts of their own: whoever binds a file looks
//! through all mounts beside it.
//!
//! The uuid of a network namespace is made of the pod's id, so that the owner of a file in
//! `/run/netns`, which all daemons of a host share, can be told without a record.

use std::path::{Path, PathBuf};

use spec::{ContainerId, SandboxId};

/// Directory of network namespaces; `ip netns` and other tools look there.
pub const NETNS_DIR: &str = "/run/netns";

/// The two directories of a daemon, and all that lies below them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Lasting state.
    pub root: PathBuf,
    /// State that ends with the boot.
    pub state: PathBuf,
}

impl Paths {
    /// Records of pods, containers and images.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.root.join("bulkhead.db")
    }

    /// Layers, one directory for each DiffID.
    #[must_use]
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Writable layers, one directory for each container.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Results of CNI ADD, kept for DEL.
    #[must_use]
    pub fn cni_cache(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// Lock of the daemon that owns `root`.
    #[must_use]
    pub fn root_lock(&self) -> PathBuf {
        self.root.join("daemon.lock")
    }

    /// Lock of the daemon that owns `state`.
    #[must_use]
    pub fn state_lock(&self) -> PathBuf {
        self.state.join("daemon.lock")
    }

    /// The CRI socket, unless the configuration says otherwise.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.state.join("bulkhead.sock")
    }

    /// Pinned namespaces of all pods, and their `/dev/shm`.
    #[must_use]
    pub fn namespaces(&self) -> PathBuf {
        self.state.join("ns")
    }

    /// Pinned namespaces of a pod, apart from the network.
    #[must_use]
    pub fn pod_namespaces(&self, pod: &SandboxId) -> PathBuf {
        self.namespaces().join(pod.as_str())
    }

    /// A pod's ipc namespace.
    #[must_use]
    pub fn ipc_namespace(&self, pod: &SandboxId) -> PathBuf {
        self.pod_namespaces(pod).join("ipc")
    }

    /// A pod's uts namespace.
    #[must_use]
    pub fn uts_namespace(&self, pod: &SandboxId) -> PathBuf {
        self.pod_namespaces(pod).join("uts")
    }

    /// A pod's user namespace.
    #[must_use]
    pub fn user_namespace(&self, pod: &SandboxId) -> PathBuf {
        self.pod_namespaces(pod).join("user")
    }

    /// A pod's network namespace: a name like a uuid, made of the pod's id.
    #[must_use]
    pub fn network_namespace(&self, pod: &SandboxId) -> PathBuf {
        Path::new(NETNS_DIR).join(Self::network_namespace_name(pod))
    }

    /// File name of a pod's network namespace.
    #[must_use]
    pub fn network_namespace_name(pod: &SandboxId) -> String {
        let id = pod.as_str();
        format!(
            "{}-{}-{}-{}-{}",
            &id[..8],
            &id[8..12],
            &id[12..16],
            &id[16..20],
            &id[20..32]
        )
    }

    /// Files of all pods.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    /// Files of a pod.
    #[must_use]
    pub fn pod(&self, pod: &SandboxId) -> PathBuf {
        self.pods().join(pod.as_str())
    }

    /// A pod's `/etc/resolv.conf`.
    #[must_use]
    pub fn resolv_conf(&self, pod: &SandboxId) -> PathBuf {
        self.pod(pod).join("resolv.conf")
    }

    /// A pod's `/etc/hostname`.
    #[must_use]
    pub fn hostname(&self, pod: &SandboxId) -> PathBuf {
        self.pod(pod).join("hostname")
    }

    /// A pod's `/dev/shm`.
    #[must_use]
    pub fn shm(&self, pod: &SandboxId) -> PathBuf {
        self.pod_namespaces(pod).join("shm")
    }

    /// State directories of all monitors.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.state.join("containers")
    }

    /// State directory of a container's monitor; also its bundle.
    #[must_use]
    pub fn container(&self, container: &ContainerId) -> PathBuf {
        self.containers().join(container.as_str())
    }

    /// A container's OCI spec.
    #[must_use]
    pub fn config_json(&self, container: &ContainerId) -> PathBuf {
        self.container(container).join("config.json")
    }

    /// Listening socket of a container's monitor; may be longer than a socket address.
    #[must_use]
    pub fn monitor_socket(&self, container: &ContainerId) -> PathBuf {
        self.container(container).join(spec::exit::SOCKET)
    }

    /// Record of a container's end.
    #[must_use]
    pub fn exit_record(&self, container: &ContainerId) -> PathBuf {
        self.container(container).join(spec::exit::FILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_namespace_is_named_after_its_pod() {
        let pod = SandboxId::parse(&"0123456789abcdef".repeat(4)).unwrap();
        let paths = Paths {
            root: "/r".into(),
            state: "/s".into(),
        };
        assert_eq!(
            paths.network_namespace(&pod),
            PathBuf::from("/run/netns/01234567-89ab-cdef-0123-456789abcdef")
        );
        assert_eq!(paths.shm(&pod), PathBuf::from(format!("/s/ns/{pod}/shm")));
    }
}
