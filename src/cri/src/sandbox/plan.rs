//! PodSandboxConfig → what has to be made. PURE.

use std::collections::BTreeMap;

use config::{CgroupDriver, Paths};
use proto::cri::{self, NamespaceMode};
use spec::SandboxId;
use spec::runtime::LinuxResources;
use spec::sysctl::{self, Owner};

use super::update::limits;
use super::userns;
use crate::container::plan::check_maps;
use crate::error::Error;
use crate::store::records::SandboxRecord;

/// What the host says about itself.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    /// The node's name.
    pub(crate) hostname: &'a str,
    /// The host's /etc/resolv.conf.
    pub(crate) resolv_conf: &'a str,
    /// The boot.
    pub(crate) boot_id: &'a str,
    /// The lowest id of the host that a user namespace may map.
    pub(crate) lowest_id: u32,
    /// Who makes cgroups.
    pub(crate) cgroup_driver: CgroupDriver,
    /// Sysctls of every pod.
    pub(crate) sysctls: &'a BTreeMap<String, String>,
}

/// What has to be made for a pod.
#[derive(Debug)]
pub(crate) struct SandboxPlan {
    /// Where things will be.
    pub(crate) record: SandboxRecord,
    /// A UTS namespace with this name; None on the host's.
    pub(crate) uts_hostname: Option<String>,
    /// Written inside the new namespaces.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// A `/dev/shm` of its own.
    pub(crate) shm: bool,
    /// One pid namespace for all containers, held by a built-in init.
    pub(crate) shared_pid: bool,
    /// Content of `/etc/resolv.conf`.
    pub(crate) resolv_conf: String,
    /// Content of `/etc/hostname`.
    pub(crate) hostname_file: String,
    /// Content of `/etc/hosts` for containers that come without one.
    pub(crate) hosts_file: String,
    /// Limits of the pod as a whole, for a cgroup of ours.
    pub(crate) limits: Option<LinuxResources>,
}

/// What the node gives every pod, as far as the pod has the namespace for itself, then what the pod asks for. Each must
/// belong to a namespace that the pod has for itself, and be exactly one file and one line (CVE-2022-0811,
/// CVE-2022-0532).
fn sysctls(
    from: &cri::LinuxPodSandboxConfig,
    defaults: &BTreeMap<String, String>,
    host_network: bool,
    host_ipc: bool,
) -> Result<BTreeMap<String, String>, Error> {
    let is_hosts = |owner: Owner| match owner {
        Owner::Network => host_network,
        Owner::Ipc => host_ipc,
    };
    let mut out = defaults.clone();
    out.retain(|name, _| sysctl::owner(name).is_some_and(|owner| !is_hosts(owner)));
    for (key, value) in &from.sysctls {
        let shown: String = key.chars().take(80).collect();
        let at = |why: &str| Error::invalid(format!("sysctl {shown:?}: {why}"));
        let name = sysctl::check(key, value).map_err(at)?;
        match sysctl::owner(&name) {
            Some(Owner::Network) if host_network => {
                return Err(at(
                    "the pod uses the host's network, whose settings are not the pod's to change",
                ));
            }
            Some(Owner::Ipc) if host_ipc => {
                return Err(at(
                    "the pod uses the host's IPC namespace, whose settings are not the pod's to change",
                ));
            }
            None => return Err(at("it belongs to no namespace of the pod and would change the host")),
            Some(_) => drop(out.insert(name, value.clone())),
        }
    }
    Ok(out)
}

/// The sysctls of every pod: those of the configuration, over the two that have a switch.
pub(crate) fn default_sysctls(runtime: &config::Runtime) -> BTreeMap<String, String> {
    let switches = [
        (
            runtime.enable_unprivileged_ports,
            "net.ipv4.ip_unprivileged_port_start",
            "0",
        ),
        (
            runtime.enable_unprivileged_icmp,
            "net.ipv4.ping_group_range",
            "0 2147483647",
        ),
    ];
    let on = switches.into_iter().filter(|(is_on, ..)| *is_on);
    let mut all: BTreeMap<String, String> = on.map(|(_, name, value)| (name.into(), value.into())).collect();
    all.extend(runtime.sysctls());
    all
}

/// `/etc/resolv.conf` from CRI, or the host's where CRI says nothing.
fn resolv_conf(dns: Option<&cri::DnsConfig>, host: &str) -> Result<String, Error> {
    let Some(dns) = dns.filter(|d| !(d.servers.is_empty() && d.searches.is_empty() && d.options.is_empty())) else {
        return Ok(host.to_owned());
    };
    for text in dns.servers.iter().chain(&dns.searches).chain(&dns.options) {
        if text.is_empty() || text.bytes().any(|b| b.is_ascii_whitespace() || b == b'\0') {
            return Err(Error::invalid(format!(
                "dns_config: {text:?} is empty or contains white space"
            )));
        }
    }
    let mut out = String::new();
    if !dns.searches.is_empty() {
        out.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        out.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        out.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(out)
}

/// A cgroup path of CRI: absolute and clean, without a last slash. With the systemd driver the path of a slice, which
/// the kubelet names whole and others by its last part.
fn cgroup_parent(text: &str, driver: CgroupDriver) -> Result<Option<String>, Error> {
    let trimmed = text.trim_end_matches('/');
    if trimmed.is_empty() {
        return Ok(None);
    }
    if driver == CgroupDriver::Systemd {
        let path = cgroup::slice_path(trimmed).map_err(|e| {
            Error::at("read", "cgroup_parent", &e)
                .and("this node's cgroup driver is systemd; set the kubelet's cgroupDriver to systemd")
        })?;
        return Ok(Some(path));
    }
    let path = if trimmed.starts_with('/') {
        trimmed.to_owned()
    } else {
        format!("/{trimmed}")
    };
    if path.split('/').any(|c| c == "..") || path.contains('\0') || path.contains("//") {
        return Err(Error::invalid(format!("cgroup_parent {text:?} is not a clean path")));
    }
    if path.ends_with(".slice") {
        return Err(Error::invalid(format!(
            "cgroup_parent {text:?} is a systemd slice, but this node's cgroup driver is cgroupfs; set the kubelet's cgroupDriver to cgroupfs"
        )));
    }
    Ok(Some(path))
}

/// The configuration and the metadata, which no pod can be without.
pub(crate) fn checked(
    config: Option<&cri::PodSandboxConfig>,
) -> Result<(&cri::PodSandboxConfig, &cri::PodSandboxMetadata), Error> {
    let config = config.ok_or_else(|| {
        Error::invalid("config is missing: RunPodSandbox needs the pod's configuration, at least its metadata")
    })?;
    let metadata = config.metadata.as_ref();
    let metadata = metadata
        .ok_or_else(|| Error::invalid("config.metadata is missing: give the pod a name, a namespace and a uid"))?;
    Ok((config, metadata))
}

/// Whether the limits of the pod's cgroup are ours to write. Whoever names a cgroup (the kubelet always does) limits it.
pub(super) fn limits_are_ours(linux: &cri::LinuxPodSandboxConfig) -> bool {
    linux.cgroup_parent.trim_end_matches('/').is_empty()
}

/// Checks what the pod needs to be one.
fn check(config: &cri::PodSandboxConfig, metadata: &cri::PodSandboxMetadata) -> Result<(), Error> {
    for (what, text) in [
        ("name", &metadata.name),
        ("namespace", &metadata.namespace),
        ("uid", &metadata.uid),
    ] {
        if text.is_empty() {
            return Err(Error::invalid(format!(
                "config.metadata.{what} is empty: a pod needs a name, a namespace and a uid"
            )));
        }
        if text.contains('\0') {
            return Err(Error::invalid(format!("the pod's {what} contains a NUL byte")));
        }
    }
    check_maps(&config.labels, &config.annotations)?;
    check_log_directory(&config.log_directory)
}

/// A directory of logs is absolute and clean.
pub(crate) fn check_log_directory(directory: &str) -> Result<(), Error> {
    let at = |why: &str| Err(Error::invalid(format!("log_directory {directory:?} is not {why}")));
    if !directory.is_empty() && !directory.starts_with('/') {
        return at("absolute");
    }
    if directory.split('/').any(|c| c == "..") || directory.contains('\0') {
        return at("a clean path");
    }
    Ok(())
}

/// The pod's name: the node's on the host's network. Linux takes at most 64 bytes.
fn hostname(wanted: &str, node: &str, host_network: bool) -> Result<String, Error> {
    let name = if host_network || wanted.is_empty() {
        node
    } else {
        wanted
    };
    if name.len() > 64 || name.bytes().any(|b| b.is_ascii_whitespace() || b == b'\0' || b == b'/') {
        return Err(Error::invalid(format!(
            "hostname {name:?}: at most 64 bytes without white space are possible"
        )));
    }
    Ok(name.to_owned())
}

/// The mode of a pod's pid namespace. Without `namespace_options` nobody asked for a shared
/// one (which is what the wire's zero would mean): each container has its own.
pub(crate) fn pid_mode(options: Option<&cri::NamespaceOption>) -> NamespaceMode {
    options.map_or(NamespaceMode::Container, cri::NamespaceOption::pid)
}

/// Makes the plan of pod `id`.
pub(crate) fn plan(
    id: &SandboxId,
    request: &cri::RunPodSandboxRequest,
    paths: &Paths,
    node: &Node<'_>,
) -> Result<SandboxPlan, Error> {
    let (config, metadata) = checked(request.config.as_ref())?;
    check(config, metadata)?;
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.clone().unwrap_or_default();
    let options = context.namespace_options.clone().unwrap_or_default();
    let shift = userns::shift(Some(&options), node.lowest_id)?;
    for (what, mode) in [("network", options.network()), ("ipc", options.ipc())] {
        if !matches!(mode, NamespaceMode::Pod | NamespaceMode::Node) {
            return Err(Error::invalid(format!(
                "namespace mode {} is not possible for {what}; POD and NODE are",
                mode.as_str_name()
            )));
        }
    }
    if options.pid() == NamespaceMode::Target {
        return Err(Error::invalid(
            "namespace mode TARGET is not possible for a pod's pid; a container may have it",
        ));
    }
    let host_network = options.network() == NamespaceMode::Node;
    let host_ipc = options.ipc() == NamespaceMode::Node;
    let mapped = userns::is_mapped(shift);
    if mapped && (host_ipc || options.pid() == NamespaceMode::Node) {
        return Err(Error::invalid(
            "a user namespace is not possible with the host's pid or IPC namespace, which its root has no say in",
        ));
    }
    let name = hostname(&config.hostname, node.hostname, host_network)?;
    let text = |path: std::path::PathBuf| path.display().to_string();
    let parent = cgroup_parent(&linux.cgroup_parent, node.cgroup_driver)?;
    let record = SandboxRecord {
        id: id.to_string(),
        request: Some(request.clone()),
        created_at: crate::clock::strictly_later(),
        netns: if host_network {
            String::new()
        } else {
            text(paths.network_namespace(id))
        },
        ipcns: if host_ipc {
            String::new()
        } else {
            text(paths.ipc_namespace(id))
        },
        utsns: if host_network {
            String::new()
        } else {
            text(paths.uts_namespace(id))
        },
        userns: if mapped {
            text(paths.user_namespace(id))
        } else {
            String::new()
        },
        first_uid: if mapped { shift.uid } else { 0 },
        first_gid: if mapped { shift.gid } else { 0 },
        mapped_ids: if mapped { shift.size } else { 0 },
        cgroup: parent.unwrap_or_default(),
        hostname: name.clone(),
        boot_id: node.boot_id.to_owned(),
        ..SandboxRecord::default()
    };
    Ok(SandboxPlan {
        uts_hostname: (!host_network).then(|| name.clone()),
        sysctls: sysctls(&linux, node.sysctls, host_network, host_ipc)?,
        shm: !host_ipc,
        shared_pid: pid_mode(context.namespace_options.as_ref()) == NamespaceMode::Pod,
        resolv_conf: resolv_conf(config.dns_config.as_ref(), node.resolv_conf)?,
        hostname_file: format!("{name}\n"),
        hosts_file: format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{name}\n"),
        limits: match (&linux.overhead, &linux.resources) {
            (None, None) => None,
            (overhead, resources) => {
                let limits = limits(overhead.as_ref(), resources.as_ref())?;
                limits_are_ours(&linux).then_some(limits)
            }
        },
        record,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> cri::RunPodSandboxRequest {
        let metadata = cri::PodSandboxMetadata {
            name: "n".into(),
            namespace: "ns".into(),
            uid: "u".into(),
            attempt: 0,
        };
        let config = cri::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: "pod".into(),
            linux: Some(cri::LinuxPodSandboxConfig::default()),
            ..Default::default()
        };
        cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        }
    }

    fn made(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Result<SandboxPlan, Error> {
        let mut request = request();
        change(request.config.as_mut().unwrap());
        let paths = Paths {
            root: "/r".into(),
            state: "/s".into(),
        };
        let node = Node {
            hostname: "node",
            resolv_conf: "nameserver 9.9.9.9\n",
            boot_id: "b",
            lowest_id: 1,
            cgroup_driver: CgroupDriver::Cgroupfs,
            sysctls: &default_sysctls(&config::Runtime {
                default_sysctls: vec!["net.core.somaxconn=77".into(), "kernel.shmmax = 5".into()],
                ..config::Runtime::default()
            }),
        };
        plan(&SandboxId::parse(&"a".repeat(64)).unwrap(), &request, &paths, &node)
    }

    fn linux(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
        config.linux.as_mut().unwrap()
    }

    fn modes(config: &mut cri::PodSandboxConfig, network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode) {
        let options = cri::NamespaceOption {
            network: network.into(),
            pid: pid.into(),
            ipc: ipc.into(),
            ..Default::default()
        };
        linux(config).security_context = Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(options),
            ..Default::default()
        });
    }

    #[test]
    fn a_plain_pod_has_all_three_namespaces() {
        let plan = made(|_| {}).unwrap();
        assert!(plan.record.netns.starts_with("/run/netns/"));
        assert!(plan.record.ipcns.ends_with("/ipc") && plan.record.utsns.ends_with("/uts"));
        assert!(plan.shm && !plan.shared_pid);
        let shared = made(|c| modes(c, NamespaceMode::Pod, NamespaceMode::Pod, NamespaceMode::Pod)).unwrap();
        assert!(shared.shared_pid);
        assert_eq!(plan.uts_hostname.as_deref(), Some("pod"));
        assert_eq!(plan.resolv_conf, "nameserver 9.9.9.9\n");
        let wanted = [
            ("kernel.shmmax", "5"),
            ("net.core.somaxconn", "77"),
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("net.ipv4.ping_group_range", "0 2147483647"),
        ];
        let found: Vec<(&str, &str)> = plan.sysctls.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn host_modes_make_nothing() {
        let plan = made(|c| modes(c, NamespaceMode::Node, NamespaceMode::Node, NamespaceMode::Node)).unwrap();
        assert!(plan.record.netns.is_empty() && plan.record.ipcns.is_empty() && plan.record.utsns.is_empty());
        assert!(!plan.shm && !plan.shared_pid && plan.sysctls.is_empty());
        assert_eq!(plan.hostname_file, "node\n");
        assert!(made(|c| modes(c, NamespaceMode::Container, NamespaceMode::Pod, NamespaceMode::Pod)).is_err());
    }

    #[test]
    fn sysctls_stay_in_the_pod() {
        let with = |k: &str, v: &str| made(|c| drop(linux(c).sysctls.insert(k.into(), v.into())));
        assert_eq!(
            with("net.core.somaxconn", "1").unwrap().sysctls["net.core.somaxconn"],
            "1"
        );
        assert!(with("kernel.shm_rmid_forced", "1").is_ok());
        assert_eq!(
            with("net/ipv4/conf/all/forwarding", "1").unwrap().sysctls["net.ipv4.conf.all.forwarding"],
            "1"
        );
        for (k, v) in [
            ("kernel.core_pattern", "x"),
            ("vm.swappiness", "1"),
            ("net..x", "1"),
            ("../kernel", "1"),
            ("net.x;y", "1"),
            ("", "1"),
            ("net.a", "1\nkernel.core_pattern=|x"),
            ("kernel.shm_rmid_forced+x", "1"),
        ] {
            assert_eq!(with(k, v).unwrap_err().kind(), spec::Kind::InvalidArgument, "{k}");
        }
        let host = |k: &str| {
            made(|c| {
                modes(c, NamespaceMode::Node, NamespaceMode::Container, NamespaceMode::Node);
                linux(c).sysctls.insert(k.into(), "1".into());
            })
        };
        assert!(host("net.core.somaxconn").is_err());
        assert!(host("kernel.shmmax").is_err());
    }

    #[test]
    fn dns_keeps_its_order_and_takes_no_line_breaks() {
        let dns = |server: &str| cri::DnsConfig {
            servers: vec![server.into(), "8.8.8.8".into()],
            searches: vec!["b".into(), "a".into()],
            options: vec!["ndots:5".into()],
        };
        let plan = made(|c| c.dns_config = Some(dns("1.1.1.1"))).unwrap();
        assert_eq!(
            plan.resolv_conf,
            "search b a\nnameserver 1.1.1.1\nnameserver 8.8.8.8\noptions ndots:5\n"
        );
        assert!(made(|c| c.dns_config = Some(dns("1.1.1.1\noptions x"))).is_err());
    }

    #[test]
    fn bad_pods_are_refused() {
        let nameless = |c: &mut cri::PodSandboxConfig| c.metadata.as_mut().unwrap().name.clear();
        for error in [
            made(|c| c.metadata = None).unwrap_err(),
            made(nameless).unwrap_err(),
            made(|c| c.hostname = "a".repeat(65)).unwrap_err(),
            made(|c| c.log_directory = "relative".into()).unwrap_err(),
            made(|c| c.log_directory = "/a/../b".into()).unwrap_err(),
            made(|c| linux(c).cgroup_parent = "/a/../b".into()).unwrap_err(),
            made(|c| linux(c).cgroup_parent = "kubepods.slice".into()).unwrap_err(),
            made(|c| drop(c.annotations.insert("a".into(), "x".repeat(3 << 20)))).unwrap_err(),
        ] {
            assert_eq!(error.kind(), spec::Kind::InvalidArgument, "{error}");
        }
        assert_eq!(
            made(|c| linux(c).cgroup_parent = "kubepods/pod1/".into())
                .unwrap()
                .record
                .cgroup,
            "/kubepods/pod1"
        );
    }
}
