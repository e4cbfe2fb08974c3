//! The configuration of `portmap` and what it maps to.

use std::net::IpAddr;

use cni_types::Code;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::conditions::Condition;
use crate::fault::{Fault, Result};
use crate::skel::Call;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    backend: Option<String>,
    snat: Option<bool>,
    #[serde(default)]
    masq_all: bool,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Option<Vec<String>>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Option<Vec<String>>,
    mark_masq_bit: Option<u8>,
    external_set_mark_chain: Option<String>,
    #[serde(default)]
    runtime_config: Option<Runtime>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    #[serde(default)]
    port_mappings: Option<Vec<RawMapping>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMapping {
    #[serde(default)]
    host_port: i64,
    #[serde(default)]
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(rename = "hostIP", default)]
    host_ip: String,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// One port of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) host_port: u16,
    pub(super) container_port: u16,
    pub(super) protocol: Protocol,
    /// None: any address of the host.
    pub(super) host_ip: Option<IpAddr>,
    /// The family that a host address asked for, an unspecified one included.
    family_v4: Option<bool>,
}

impl Mapping {
    /// Whether it concerns packets of that family.
    pub(super) fn is_for(&self, ipv4: bool) -> bool {
        self.family_v4.is_none_or(|v4| v4 == ipv4)
    }
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Conf {
    pub(super) mappings: Vec<Mapping>,
    /// The container's first address of each family.
    pub(super) targets: Vec<IpNet>,
    pub(super) snat: bool,
    pub(super) masq_all: bool,
    conditions_v4: Vec<Condition>,
    conditions_v6: Vec<Condition>,
}

/// Whether there is any mapping; wrong ones count.
pub(super) fn has_mappings(call: &Call) -> bool {
    let list = call.conf.get("runtimeConfig").and_then(|rc| rc.get("portMappings"));
    list.and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

fn port(what: &str, number: i64) -> Result<u16> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Fault::config(format!("{what} {number} is not between 1 and 65535")))
}

fn mapping(raw: &RawMapping) -> Result<Mapping> {
    let protocol = match raw.protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => {
            return Err(Fault::config(format!(
                "protocol {other:?} of a port mapping is unknown"
            )));
        }
    };
    let host_ip = match raw.host_ip.as_str() {
        "" => None,
        text => {
            let bad = |_| Fault::config(format!("hostIP {text:?} of a port mapping is no IP address"));
            Some(text.parse::<IpAddr>().map_err(bad)?.to_canonical())
        }
    };
    Ok(Mapping {
        host_port: port("hostPort", raw.host_port)?,
        container_port: port("containerPort", raw.container_port)?,
        protocol,
        family_v4: host_ip.map(|ip| ip.is_ipv4()),
        host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
    })
}

fn unsupported(text: &str) -> Fault {
    Fault::new(Code::UnsupportedField, text)
}

impl Conf {
    /// Reads and checks it.
    pub(super) fn load(call: &Call) -> Result<Self> {
        let raw: Raw = call.parse()?;
        match raw.backend.as_deref() {
            None | Some("nftables") => {}
            Some("iptables") => {
                return Err(unsupported(
                    "backend \"iptables\" is not supported by this plugin; use \"nftables\"",
                ));
            }
            Some(other) => return Err(Fault::config(format!("backend {other:?} is unknown"))),
        }
        if raw.external_set_mark_chain.is_some_and(|chain| !chain.is_empty()) {
            return Err(unsupported(
                "externalSetMarkChain belongs to the iptables backend, which is not supported",
            ));
        }
        if raw.mark_masq_bit.is_some_and(|bit| bit > 31) {
            return Err(Fault::config("markMasqBit must be between 0 and 31"));
        }
        let mappings = raw.runtime_config.unwrap_or_default().port_mappings.unwrap_or_default();
        let mappings: Vec<Mapping> = mappings.iter().map(mapping).collect::<Result<_>>()?;
        let targets = if mappings.is_empty() {
            Vec::new()
        } else {
            targets(call)?
        };
        Ok(Self {
            mappings,
            targets,
            snat: raw.snat.unwrap_or(true),
            masq_all: raw.masq_all,
            conditions_v4: Condition::parse_all("conditionsV4", raw.conditions_v4.as_deref(), true)?,
            conditions_v6: Condition::parse_all("conditionsV6", raw.conditions_v6.as_deref(), false)?,
        })
    }

    /// The conditions of a family.
    pub(super) fn conditions(&self, ipv4: bool) -> &[Condition] {
        if ipv4 { &self.conditions_v4 } else { &self.conditions_v6 }
    }
}

/// The first address of each family that the previous result gives to the container.
fn targets(call: &Call) -> Result<Vec<IpNet>> {
    let Some(previous) = call.previous()? else {
        return Ok(Vec::new());
    };
    let mut targets: Vec<IpNet> = Vec::new();
    for config in &previous.ips {
        let of_host = config
            .interface
            .and_then(|at| previous.interfaces.get(at))
            .is_some_and(|interface| interface.name != call.ifname || interface.sandbox.is_empty());
        let v4 = config.address.addr().is_ipv4();
        if !of_host && !targets.iter().any(|have| have.addr().is_ipv4() == v4) {
            targets.push(config.address);
        }
    }
    Ok(targets)
}
