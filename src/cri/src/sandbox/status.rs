//! PodSandboxStatus: what was asked for, the addresses the network gave, and whether the pod still stands (E6).

use std::collections::HashMap;
use std::sync::Arc;

use proto::cri;
use serde_json::json;

use crate::clock;
use crate::container;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::records::{PodResources, Resources};
use crate::store::sandbox::Sandbox;

/// The status message of a pod.
pub(crate) fn message(sandbox: &Sandbox) -> Result<cri::PodSandboxStatus, Error> {
    let (config, record) = (sandbox.config()?, &sandbox.record);
    let mut ips = record.ips.iter();
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().cloned().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip: ip.clone() }).collect(),
    };
    // The kubelet makes the pod anew if these modes are not what it wants.
    let options = sandbox
        .namespace_options()
        .cloned()
        .unwrap_or_else(|| cri::NamespaceOption {
            pid: cri::NamespaceMode::Container.into(),
            ..Default::default()
        });
    Ok(cri::PodSandboxStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: sandbox.state().into(),
        created_at: record.created_at,
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(options) }),
        }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.request()?.runtime_handler.clone(),
    })
}

/// The pod as a runtime specification would have it: tools look here for its namespaces. There is no process in it: the
/// pod has none of its own, or the built-in init.
fn spec(sandbox: &Sandbox) -> Result<serde_json::Value, Error> {
    let (config, record) = (sandbox.config()?, &sandbox.record);
    let pid = match record.init_pid {
        0 => String::new(),
        pid => format!("/proc/{pid}/ns/pid"),
    };
    let namespaces: Vec<_> = [
        ("network", &record.netns),
        ("ipc", &record.ipcns),
        ("uts", &record.utsns),
        ("pid", &pid),
    ]
    .into_iter()
    .filter(|(_, path)| !path.is_empty())
    .map(|(kind, path)| json!({"type": kind, "path": path}))
    .collect();
    Ok(json!({
        "ociVersion": "1.3.0",
        "hostname": record.hostname,
        "annotations": config.annotations,
        "linux": {"cgroupsPath": record.cgroup, "namespaces": namespaces},
    }))
}

/// What UpdatePodSandboxResources said, or what the pod was made with.
fn resources(sandbox: &Sandbox) -> Result<PodResources, Error> {
    if let Some(resized) = sandbox.status().resized {
        return Ok(resized);
    }
    let linux = sandbox.config()?.linux.as_ref();
    Ok(PodResources {
        overhead: linux.and_then(|linux| linux.overhead.clone()).map(Resources),
        resources: linux.and_then(|linux| linux.resources.clone()).map(Resources),
    })
}

fn shown(of: &PodResources) -> serde_json::Value {
    let part = |part: &Option<Resources>| {
        part.as_ref().map(|Resources(part)| {
            json!({
                "cpu_period": part.cpu_period,
                "cpu_quota": part.cpu_quota,
                "cpu_shares": part.cpu_shares,
                "memory_limit_in_bytes": part.memory_limit_in_bytes,
                "memory_swap_limit_in_bytes": part.memory_swap_limit_in_bytes,
                "cpuset_cpus": part.cpuset_cpus,
                "cpuset_mems": part.cpuset_mems,
                "unified": part.unified,
            })
        })
    };
    json!({"overhead": part(&of.overhead), "resources": part(&of.resources)})
}

/// Answers PodSandboxStatus.
pub(crate) fn status(
    rt: &Arc<Runtime>,
    request: &cri::PodSandboxStatusRequest,
) -> Result<cri::PodSandboxStatusResponse, Error> {
    let sandbox = rt.index.sandbox(&request.pod_sandbox_id)?;
    let mut info = HashMap::new();
    if request.verbose {
        let record = &sandbox.record;
        let cni = serde_json::from_str::<serde_json::Value>(&record.cni_result).unwrap_or_default();
        // Tools look for a pod's namespaces where other runtimes have the spec of a pause container; there is none here.
        let namespaces: Vec<_> = [
            ("network", &record.netns),
            ("ipc", &record.ipcns),
            ("uts", &record.utsns),
        ]
        .into_iter()
        .filter(|(_, path)| !path.is_empty())
        .map(|(kind, path)| json!({"type": kind, "path": path}))
        .collect();
        let text = json!({
            "image": "",
            "runtimeSpec": {"hostname": record.hostname, "linux": {"cgroupsPath": record.cgroup, "namespaces": namespaces}},
            "pid": record.init_pid,
            "networkNamespace": record.netns,
            "ipcNamespace": record.ipcns,
            "utsNamespace": record.utsns,
            "userNamespace": record.userns,
            "cgroup": record.cgroup,
            "hostname": record.hostname,
            "cniResult": cni,
            "networkDown": sandbox.status().network_down,
            "resources": shown(&resources(&sandbox)?),
            "runtimeSpec": spec(&sandbox)?,
        });
        info.insert("info".to_owned(), text.to_string());
    }
    // One goes with the other (kubernetes #129818): a kubelet that listens to events takes the containers from here and
    // the time as theirs. The time is that before the look.
    let timestamp = clock::strictly_later();
    let containers = rt.index.containers_of(&sandbox.id);
    Ok(cri::PodSandboxStatusResponse {
        status: Some(message(&sandbox)?),
        info,
        containers_statuses: containers
            .iter()
            .map(|container| container::status::message(container))
            .collect::<Result<_, _>>()?,
        timestamp,
    })
}
