//! The configuration of `bridge`, checked as a whole before anything is done.

use cni_types::Dns;
use serde::Deserialize;
use serde_json::Value;

use crate::fault::{Fault, Result};
use crate::skel::Call;

const DEFAULT_BRIDGE: &str = "cni0";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    bridge: Option<String>,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    force_address: bool,
    #[serde(default)]
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    hairpin_mode: bool,
    #[serde(default)]
    promisc_mode: bool,
    #[serde(default)]
    vlan: u32,
    vlan_trunk: Option<Vec<Trunk>>,
    #[serde(default)]
    preserve_default_vlan: bool,
    #[serde(rename = "macspoofchk", default)]
    mac_spoof_check: bool,
    #[serde(rename = "enabledad", default)]
    enable_dad: bool,
    #[serde(default)]
    disable_container_interface: bool,
    #[serde(default)]
    port_isolation: bool,
    dns: Option<Dns>,
}

/// VLANs that a port carries with their tags: one, or a range.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trunk {
    #[serde(rename = "minID")]
    min: Option<u16>,
    #[serde(rename = "maxID")]
    max: Option<u16>,
    id: Option<u16>,
}

/// What is to be done.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the published configuration"
)]
pub(super) struct Conf {
    pub(super) bridge: String,
    pub(super) gateway: bool,
    pub(super) default_gateway: bool,
    pub(super) force_address: bool,
    pub(super) masquerade: bool,
    pub(super) mtu: u32,
    pub(super) hairpin: bool,
    pub(super) promisc: bool,
    pub(super) isolated: bool,
    pub(super) vlan: Option<u16>,
    pub(super) trunk: Vec<u16>,
    pub(super) keep_default_vlan: bool,
    pub(super) dad: bool,
    pub(super) leave_down: bool,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) dns: Dns,
}

fn trunk(list: &[Trunk]) -> Result<Vec<u16>> {
    let mut ids = Vec::new();
    let valid = |id: u16| (1..=4094).contains(&id);
    for item in list {
        match (item.min, item.max) {
            (Some(min), Some(max)) if valid(min) && valid(max) && min <= max => ids.extend(min..=max),
            (None, None) => {}
            _ => {
                return Err(Fault::config(
                    "vlanTrunk: minID and maxID belong together, in order, between 1 and 4094",
                ));
            }
        }
        match item.id {
            Some(id) if valid(id) => ids.push(id),
            Some(id) => return Err(Fault::config(format!("vlanTrunk: id {id} is not between 1 and 4094"))),
            None => {}
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bad = || Fault::config(format!("{text:?} is no hardware address"));
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(bad)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
    }
    if parts.next().is_some() { Err(bad()) } else { Ok(bytes) }
}

impl Conf {
    /// Whether the network masquerades, for DEL, which must work whatever else is wrong.
    pub(super) fn masquerades(call: &Call) -> bool {
        call.conf.get("ipMasq").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Reads and checks it.
    pub(super) fn load(call: &Call) -> Result<Self> {
        let raw: Raw = call.parse()?;
        let bridge = raw
            .bridge
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| DEFAULT_BRIDGE.to_owned());
        cni_types::name::interface(&bridge).map_err(|error| Fault::config(format!("bridge: {error}")))?;
        if raw.hairpin_mode && raw.promisc_mode {
            return Err(Fault::config("hairpinMode and promiscMode exclude each other"));
        }
        if raw.mac_spoof_check {
            return Err(unsupported("macspoofchk"));
        }
        match raw.ip_masq_backend.as_deref() {
            None | Some("nftables") => {}
            Some("iptables") if !raw.ip_masq => {}
            Some("iptables") => return Err(unsupported("ipMasqBackend \"iptables\"; use \"nftables\"")),
            Some(other) => return Err(Fault::config(format!("ipMasqBackend {other:?} is unknown"))),
        }
        let vlan = match u16::try_from(raw.vlan) {
            Ok(0) => None,
            Ok(id) if id <= 4094 => Some(id),
            _ => return Err(Fault::config(format!("vlan {} is not between 0 and 4094", raw.vlan))),
        };
        let has_ipam = crate::ipam::plugin(call)?.is_some();
        if has_ipam && raw.disable_container_interface {
            return Err(Fault::config(
                "disableContainerInterface leaves no interface for ipam to configure",
            ));
        }
        // The most specific wins, as in the reference: capability, then args, then CNI_ARGS.
        let of = |outer: &str, inner: &[&str]| {
            let value = inner
                .iter()
                .try_fold(call.conf.get(outer)?, |value, key| value.get(key))?;
            value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let asked_mac = of("runtimeConfig", &["mac"])
            .or_else(|| of("args", &["cni", "mac"]))
            .or_else(|| call.arg("MAC").filter(|text| !text.is_empty()).map(str::to_owned));
        Ok(Self {
            bridge,
            gateway: raw.is_gateway || raw.is_default_gateway,
            default_gateway: raw.is_default_gateway,
            force_address: raw.force_address,
            masquerade: raw.ip_masq,
            mtu: raw.mtu,
            hairpin: raw.hairpin_mode,
            promisc: raw.promisc_mode,
            isolated: raw.port_isolation,
            vlan,
            trunk: trunk(raw.vlan_trunk.as_deref().unwrap_or_default())?,
            keep_default_vlan: raw.preserve_default_vlan,
            dad: raw.enable_dad,
            leave_down: raw.disable_container_interface,
            mac: asked_mac.as_deref().map(mac).transpose()?,
            dns: raw.dns.unwrap_or_default(),
        })
    }

    /// Whether the bridge must keep VLANs apart.
    pub(super) fn vlan_filtering(&self) -> bool {
        self.vlan.is_some() || !self.trunk.is_empty()
    }
}

fn unsupported(what: &str) -> Fault {
    Fault::new(
        cni_types::Code::UnsupportedField,
        format!("{what} is not supported by this plugin"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_checked() {
        assert_eq!(mac("02:00:5e:10:00:ff").unwrap(), [2, 0, 0x5e, 0x10, 0, 0xff]);
        for bad in ["", "02:00", "02:00:5e:10:00:ff:11", "2:0:5:1:0:f", "zz:00:00:00:00:00"] {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn trunks_are_collected() {
        let list: Vec<Trunk> = serde_json::from_str(r#"[{"minID":5,"maxID":7},{"id":6},{"id":100}]"#).unwrap();
        assert_eq!(trunk(&list).unwrap(), [5, 6, 7, 100]);
        for bad in [r#"[{"minID":5}]"#, r#"[{"id":0}]"#, r#"[{"minID":7,"maxID":5}]"#] {
            assert!(
                trunk(&serde_json::from_str::<Vec<Trunk>>(bad).unwrap()).is_err(),
                "{bad}"
            );
        }
    }
}
