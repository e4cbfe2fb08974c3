//! The RPCs about the node itself: Version, Status, RuntimeConfig, UpdateRuntimeConfig.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use proto::cri;
use serde_json::json;

use crate::error::Error;
use crate::runtime::Runtime;

/// Answers Version.
pub(crate) fn version() -> cri::VersionResponse {
    cri::VersionResponse {
        version: "0.1.0".into(),
        runtime_name: "bulkhead".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: "v1".into(),
    }
}

fn condition(name: &str, fault: Option<(&str, String)>) -> cri::RuntimeCondition {
    let status = fault.is_none();
    let (reason, message) = fault.unwrap_or_default();
    cri::RuntimeCondition {
        r#type: name.into(),
        status,
        reason: reason.to_owned(),
        message,
    }
}

/// Answers Status.
pub(crate) async fn status(rt: &Arc<Runtime>, request: &cri::StatusRequest) -> Result<cri::StatusResponse, Error> {
    let network = rt.cni.status().await.err();
    let network = network.map(|e| ("NetworkPluginNotReady", crate::error::chain_of(&e)));
    let mut info = HashMap::new();
    if request.verbose {
        let config = serde_json::to_value(&rt.config).map_err(|e| Error::at("encode", "the configuration", &e))?;
        info.insert("config".to_owned(), config.to_string());
        let last = network.as_ref().map_or("OK", |(_, message)| message.as_str());
        info.insert("lastCNILoadStatus".to_owned(), json!(last).to_string());
        let pods = rt.index.sandboxes().len();
        let containers = rt.index.containers().len();
        let cidr = rt.pod_cidr.read().unwrap_or_else(PoisonError::into_inner).clone();
        info.insert(
            "counts".to_owned(),
            json!({"pods": pods, "containers": containers}).to_string(),
        );
        info.insert("podCIDR".to_owned(), json!(cidr).to_string());
    }
    // Recursive read-only mounts need mount_setattr (Linux 5.12), which isolation relies on.
    let features = cri::RuntimeHandlerFeatures {
        recursive_read_only_mounts: true,
        user_namespaces: false,
    };
    let handlers = std::iter::once("").chain(rt.config.handler_names());
    Ok(cri::StatusResponse {
        status: Some(cri::RuntimeStatus {
            conditions: vec![condition("RuntimeReady", None), condition("NetworkReady", network)],
        }),
        info,
        runtime_handlers: handlers
            .map(|name| cri::RuntimeHandler {
                name: name.to_owned(),
                features: Some(features),
            })
            .collect(),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            ..Default::default()
        }),
    })
}

/// Answers RuntimeConfig: the driver that the kubelet must use too.
pub(crate) fn config(rt: &Runtime) -> cri::RuntimeConfigResponse {
    let driver = match rt.driver {
        cgroup::DriverKind::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        cgroup::DriverKind::Systemd => cri::CgroupDriver::Systemd,
    };
    cri::RuntimeConfigResponse {
        linux: Some(cri::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    }
}

/// Answers UpdateRuntimeConfig. The pod CIDR is noted and shown in the verbose status; CNI
/// configurations on this node say their ranges themselves.
pub(crate) fn update(rt: &Runtime, request: cri::UpdateRuntimeConfigRequest) {
    let cidr = request
        .runtime_config
        .and_then(|c| c.network_config)
        .map(|n| n.pod_cidr)
        .unwrap_or_default();
    if !cidr.is_empty() {
        tracing::info!(cidr, "the kubelet says the pod CIDR");
        *rt.pod_cidr.write().unwrap_or_else(PoisonError::into_inner) = cidr;
    }
}
