//! PodSandboxStatus: what was asked for, the addresses the network gave, and whether the pod still stands (E6).

use std::collections::HashMap;
use std::sync::Arc;

use proto::cri;
use serde_json::json;

use crate::error::Error;
use crate::runtime::Runtime;
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
            "cgroup": record.cgroup,
            "hostname": record.hostname,
            "cniResult": cni,
            "networkDown": sandbox.status().network_down,
        });
        info.insert("info".to_owned(), text.to_string());
    }
    // `timestamp` stays unset: it goes only together with containers_statuses, and switches
    // the kubelet to another meaning of this reply (kubernetes #129818).
    Ok(cri::PodSandboxStatusResponse {
        status: Some(message(&sandbox)?),
        info,
        ..Default::default()
    })
}
