//! The RPCs about the node itself: Version, Status, RuntimeConfig, UpdateRuntimeConfig.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use proto::cri;
use serde_json::json;

use crate::error::Error;
use crate::runtime::Runtime;

/// The kubelet's interface to runtimes, and the CRI.
const VERSIONS: [&str; 2] = ["0.1.0", "v1"];

/// Answers Version. The client may say which version it speaks, of the one or of the other: the kubelet says 0.1.0 or
/// nothing, crictl v1. Who speaks another would be told by the first message that it does not know, or never.
pub(crate) fn version(request: &cri::VersionRequest) -> Result<cri::VersionResponse, Error> {
    let said = request.version.as_str();
    if !said.is_empty() && !VERSIONS.contains(&said) {
        return Err(Error::invalid(format!(
            "version {:?} is not spoken here; {} are",
            crate::store::index::shown(said),
            VERSIONS.join(" and ")
        )));
    }
    let [version, api] = VERSIONS.map(str::to_owned);
    Ok(cri::VersionResponse {
        version,
        runtime_name: "bulkhead".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: api,
    })
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
    let network = rt.counters.network("status", rt.cni.status()).await.err();
    let network = network.map(|e| ("NetworkPluginNotReady", crate::error::chain_of(&e)));
    let mut info = HashMap::new();
    if request.verbose {
        let mut config = serde_json::to_value(&rt.config).map_err(|e| Error::at("encode", "the configuration", &e))?;
        // As tools of containerd look for them.
        config["stateDir"] = json!(rt.config.state);
        config["rootDir"] = json!(rt.config.root);
        info.insert("config".to_owned(), config.to_string());
        let last = network.as_ref().map_or("OK", |(_, message)| message.as_str());
        info.insert("lastCNILoadStatus".to_owned(), json!(last).to_string());
        info.insert("cniconfig".to_owned(), cni_config(rt).to_string());
        let pods = rt.index.sandboxes().len();
        let containers = rt.index.containers().len();
        let cidr = rt.pod_cidr.read().unwrap_or_else(PoisonError::into_inner).clone();
        info.insert(
            "counts".to_owned(),
            json!({"pods": pods, "containers": containers}).to_string(),
        );
        info.insert("podCIDR".to_owned(), json!(cidr).to_string());
    }
    let features = cri::RuntimeHandlerFeatures {
        recursive_read_only_mounts: rt.host.recursive_read_only,
        user_namespaces: rt.no_userns.is_none(),
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
            mount_options: true,
            user_namespaces_host_network: rt.no_userns.is_none(),
        }),
    })
}

/// The network that pods get, as the file says it, and where it was found.
fn cni_config(rt: &Runtime) -> serde_json::Value {
    let cni = &rt.config.cni;
    let network = rt.cni.network();
    json!({
        "PluginDirs": cni.bin_dirs,
        "PluginConfDir": cni.conf_dir,
        "Networks": network.iter().map(|network| json!({
            "IFName": crate::sandbox::network::IFNAME,
            "Config": {
                "Name": network.list.name,
                "CNIVersion": network.list.version.to_string(),
                "Plugins": network.list.plugins.iter().map(|plugin| json!({"Network": plugin.raw})).collect::<Vec<_>>(),
                "Source": network.file,
            },
        })).collect::<Vec<_>>(),
        "problems": rt.cni.problems(),
    })
}

/// Answers RuntimeConfig: the driver that the kubelet must use too.
pub(crate) fn config(rt: &Runtime) -> cri::RuntimeConfigResponse {
    cri::RuntimeConfigResponse {
        linux: Some(cri::LinuxRuntimeConfiguration {
            cgroup_driver: match rt.config.cgroup_driver {
                config::CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
                config::CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
            }
            .into(),
        }),
    }
}

/// Answers UpdateRuntimeConfig. The pod CIDR is noted and shown in the verbose status; CNI
/// configurations on this node say their ranges themselves.
pub(crate) fn update(rt: &Runtime, request: cri::UpdateRuntimeConfigRequest) -> Result<(), Error> {
    let cidr = request
        .runtime_config
        .and_then(|c| c.network_config)
        .map(|n| n.pod_cidr)
        .unwrap_or_default();
    if let Some(bad) = cidr.split(',').find(|part| !cidr.is_empty() && !is_cidr(part)) {
        let bad = crate::store::index::shown(bad);
        return Err(Error::invalid(format!(
            "pod_cidr {bad:?} is no network like 10.0.0.0/24"
        )));
    }
    if !cidr.is_empty() {
        tracing::info!(cidr, "the kubelet says the pod CIDR");
        *rt.pod_cidr.write().unwrap_or_else(PoisonError::into_inner) = cidr;
    }
    Ok(())
}

/// An address and the length of its prefix; two of them, with a comma, where a node has both families.
fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    match (address.parse::<std::net::IpAddr>(), length.parse::<u8>()) {
        (Ok(std::net::IpAddr::V4(_)), Ok(length)) => length <= 32,
        (Ok(std::net::IpAddr::V6(_)), Ok(length)) => length <= 128,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_another_version_is_told() {
        let asked = |version: &str| {
            super::version(&cri::VersionRequest {
                version: version.into(),
            })
        };
        for fine in ["", "0.1.0", "v1"] {
            assert_eq!(asked(fine).unwrap().runtime_api_version, "v1", "{fine:?}");
        }
        for bad in ["v1alpha2", "v2", "0.2.0", " v1", "\0"] {
            assert_eq!(asked(bad).unwrap_err().kind(), spec::Kind::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn networks_are_told_from_words() {
        for good in ["10.0.0.0/24", "fd00::/64", "0.0.0.0/0"] {
            assert!(is_cidr(good), "{good}");
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/24/1"] {
            assert!(!is_cidr(bad), "{bad}");
        }
    }
}
