//! A pod's network: what CNI is told, and what it answered.

use std::path::PathBuf;

use cni_invoke::Attachment;
use proto::cri;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::records::SandboxRecord;

/// The interface that the kubelet looks for.
pub(crate) const IFNAME: &str = "eth0";

/// Bits a second in an annotation like `kubernetes.io/ingress-bandwidth: 10M`.
fn bandwidth(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Port mappings, as the capability `portMappings` carries them.
fn port_mappings(config: &cri::PodSandboxConfig) -> Result<Vec<Value>, Error> {
    let mut out = Vec::new();
    for port in config.port_mappings.iter().filter(|p| p.host_port != 0) {
        let valid = |n: i32| u16::try_from(n).is_ok_and(|n| n > 0);
        if !valid(port.host_port) || !valid(port.container_port) {
            return Err(Error::invalid(format!(
                "port mapping {} to {}: ports are 1 to 65535",
                port.host_port, port.container_port
            )));
        }
        if !port.host_ip.is_empty() && port.host_ip.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::invalid(format!(
                "port mapping: host_ip {:?} is no address",
                port.host_ip
            )));
        }
        out.push(json!({
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": port.protocol().as_str_name().to_ascii_lowercase(),
            "hostIP": port.host_ip,
        }));
    }
    Ok(out)
}

fn capabilities(config: &cri::PodSandboxConfig) -> Result<Map<String, Value>, Error> {
    let mut out = Map::new();
    let ports = port_mappings(config)?;
    if !ports.is_empty() {
        out.insert("portMappings".into(), Value::Array(ports));
    }
    let mut limits = Map::new();
    for (annotation, rate, burst) in [
        ("kubernetes.io/ingress-bandwidth", "ingressRate", "ingressBurst"),
        ("kubernetes.io/egress-bandwidth", "egressRate", "egressBurst"),
    ] {
        if let Some(text) = config.annotations.get(annotation) {
            let bits = bandwidth(text)
                .filter(|bits| *bits > 0)
                .ok_or_else(|| Error::invalid(format!("annotation {annotation}: {text:?} is no rate like 10M")))?;
            limits.insert(rate.into(), bits.into());
            // As the peers: the largest burst that the plugin takes, i.e. no smoothing.
            limits.insert(burst.into(), i32::MAX.into());
        }
    }
    if !limits.is_empty() {
        out.insert("bandwidth".into(), Value::Object(limits));
    }
    if let Some(dns) = &config.dns_config {
        out.insert(
            "dns".into(),
            json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options}),
        );
    }
    Ok(out)
}

/// What CNI is told about a pod; None with host network.
pub(crate) fn attachment(record: &SandboxRecord, netns_there: bool) -> Result<Option<Attachment>, Error> {
    if record.netns.is_empty() {
        return Ok(None);
    }
    let empty = cri::PodSandboxConfig::default();
    let config = record
        .request
        .as_ref()
        .and_then(|r| r.config.as_ref())
        .unwrap_or(&empty);
    let metadata = config.metadata.clone().unwrap_or_default();
    for text in [&metadata.namespace, &metadata.name, &metadata.uid] {
        // CNI_ARGS is KEY=VALUE;KEY=VALUE: a `;` would add arguments.
        if text.contains([';', '=', '\n']) {
            return Err(Error::invalid(format!(
                "the pod's metadata contains {text:?}: `;`, `=` and line breaks are impossible"
            )));
        }
    }
    let args = [
        ("IgnoreUnknown", "1".to_owned()),
        ("K8S_POD_NAMESPACE", metadata.namespace),
        ("K8S_POD_NAME", metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", record.id.clone()),
        ("K8S_POD_UID", metadata.uid),
    ];
    Ok(Some(Attachment {
        container_id: record.id.clone(),
        netns: netns_there.then(|| PathBuf::from(&record.netns)),
        ifname: IFNAME.into(),
        args: args.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        capabilities: capabilities(config)?,
    }))
}

/// Addresses of a result, the primary one first.
pub(crate) fn addresses(result: &cni_types::AddResult) -> Vec<String> {
    result.ips.iter().map(|ip| ip.address.addr().to_string()).collect()
}

/// Repeats DEL for a pod: works without its namespace, and when it was done already.
pub(crate) async fn delete(rt: &Runtime, record: &SandboxRecord) -> Result<(), Error> {
    let there = std::path::Path::new(&record.netns).exists();
    if let Some(attachment) = attachment(record, there)? {
        rt.counters
            .network("tear_down_pod", rt.cni.del(&attachment))
            .await
            .map_err(|e| Error::at("take down the network of", format!("pod {}", record.id), &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(config: cri::PodSandboxConfig) -> SandboxRecord {
        let request = cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        SandboxRecord {
            id: "i".into(),
            netns: "/run/netns/x".into(),
            request: Some(request),
            ..Default::default()
        }
    }

    fn metadata(name: &str) -> Option<cri::PodSandboxMetadata> {
        Some(cri::PodSandboxMetadata {
            name: name.into(),
            namespace: "ns".into(),
            uid: "u".into(),
            attempt: 0,
        })
    }

    #[test]
    fn what_cni_is_told() {
        let port = |host, container| cri::PortMapping {
            host_port: host,
            container_port: container,
            ..Default::default()
        };
        let mut config = cri::PodSandboxConfig {
            metadata: metadata("n"),
            ..Default::default()
        };
        config.port_mappings = vec![port(8080, 80), port(0, 81)];
        config
            .annotations
            .insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
        let got = attachment(&record(config.clone()), true).unwrap().unwrap();
        assert!(got.args.contains(&("K8S_POD_NAME".into(), "n".into())));
        assert_eq!(got.capabilities["portMappings"][0]["hostPort"], 8080);
        assert_eq!(got.capabilities["portMappings"].as_array().unwrap().len(), 1);
        assert_eq!(got.capabilities["bandwidth"]["ingressRate"], 10_000_000);
        config.port_mappings = vec![port(70_000, 80)];
        assert!(attachment(&record(config), true).is_err());
        let host = SandboxRecord::default();
        assert!(attachment(&host, true).unwrap().is_none());
    }

    #[test]
    fn metadata_cannot_add_arguments() {
        let config = cri::PodSandboxConfig {
            metadata: metadata("n;IgnoreUnknown=0"),
            ..Default::default()
        };
        assert!(attachment(&record(config), true).is_err());
    }
}
