//! Pod and container configurations as the kubelet fills them, for a test to change.

use std::sync::atomic::{AtomicU32, Ordering};

use proto::cri as v1;

use crate::node::Node;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A pod named `name` with a uid of its own, its log directory below the node's.
#[must_use]
pub fn pod(node: &Node, name: &str) -> v1::PodSandboxConfig {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let uid = format!("{:08x}-0000-4000-8000-{:012x}", std::process::id(), number);
    v1::PodSandboxConfig {
        log_directory: node
            .logs_dir()
            .join(format!("{name}-{number}"))
            .to_string_lossy()
            .into_owned(),
        metadata: Some(v1::PodSandboxMetadata {
            name: name.into(),
            uid,
            namespace: "e2e".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        dns_config: Some(v1::DnsConfig {
            servers: vec!["10.96.0.10".into()],
            ..Default::default()
        }),
        labels: [("io.kubernetes.pod.name".to_owned(), name.to_owned())].into(),
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// As [`pod`], in a cgroup that the kubelet would have made: `parent-<name>` below the node's.
#[must_use]
pub fn pod_in_cgroup(node: &Node, name: &str) -> v1::PodSandboxConfig {
    let mut config = pod(node, name);
    config.linux.get_or_insert_default().cgroup_parent = crate::cgroups::parent(node, name).0;
    config
}

/// A container named `name` of `image` that runs `command`; it logs to `<name>.log`.
#[must_use]
pub fn container(name: &str, image: &str, command: &[&str]) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(crate::cri::spec(image)),
        command: command.iter().map(|&word| word.into()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources::default()),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                masked_paths: [
                    "/proc/acpi",
                    "/proc/kcore",
                    "/proc/keys",
                    "/proc/latency_stats",
                    "/proc/timer_list",
                    "/proc/scsi",
                    "/sys/firmware",
                ]
                .map(str::to_owned)
                .into(),
                readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
                    .map(str::to_owned)
                    .into(),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// A container that stays until it is stopped, and ends at once on SIGTERM.
#[must_use]
pub fn sleeper(name: &str) -> v1::ContainerConfig {
    container(
        name,
        crate::catalog::BUSYBOX,
        &["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
    )
}

/// A pod's security context, to be changed.
pub fn pod_security(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxSandboxSecurityContext {
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
}

/// A pod's namespace options, to be changed.
pub fn pod_namespaces(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    pod_security(config).namespace_options.get_or_insert_default()
}

/// The first of the host's ids that [`user_namespace`] maps.
pub const MAPPED: u32 = 262_144;

/// A user namespace for a pod; its containers name the same.
#[must_use]
pub fn user_namespace() -> v1::UserNamespace {
    let map = vec![v1::IdMapping {
        host_id: MAPPED,
        container_id: 0,
        length: 65_536,
    }];
    v1::UserNamespace {
        mode: v1::NamespaceMode::Pod.into(),
        uids: map.clone(),
        gids: map,
    }
}

/// Puts a pod into [`user_namespace`].
pub fn map_pod(config: &mut v1::PodSandboxConfig) {
    pod_namespaces(config).userns_options = Some(user_namespace());
}

/// Says of a container that its pod is in [`user_namespace`].
pub fn map_container(config: &mut v1::ContainerConfig) {
    let options = security(config).namespace_options.get_or_insert_default();
    options.userns_options = Some(user_namespace());
}

/// A container's security context, to be changed.
pub fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
}

/// A container's resources, to be changed.
pub fn resources(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerResources {
    config.linux.get_or_insert_default().resources.get_or_insert_default()
}
