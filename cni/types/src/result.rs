//! Results of ADD: kept in the form of the newest specification, read from and written to the
//! form of any supported version.
//!
//! | version       | addresses                                        |
//! |---------------|--------------------------------------------------|
//! | 0.1, 0.2      | `ip4` and `ip6`, one each, with their routes     |
//! | 0.3, 0.3.1, 0.4 | `ips` with `version` "4" or "6"                |
//! | 1.0, 1.1      | `ips` without it                                 |

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Code, Error};
use crate::version::Version;

/// `null` for a list, as Go writes an empty one, is an empty list.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(input: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(input)?.unwrap_or_default())
}

/// `""` for an address, as Go writes a missing one, is none.
fn gateway<'de, D: Deserializer<'de>>(input: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(input)? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| serde::de::Error::custom(format!("{text:?} is no IP address"))),
    }
}

/// A network interface of the result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Hardware address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// MTU, 0 when not told.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// Path of the namespace it is in; empty for the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Socket of a user-space device.
    #[serde(rename = "socketPath", default, skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// PCI address.
    #[serde(rename = "pciID", default, skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// An address of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Index into the interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// Address and prefix length.
    pub address: IpNet,
    /// Gateway of its subnet.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "gateway")]
    pub gateway: Option<IpAddr>,
}

/// A route of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "gateway")]
    pub gw: Option<IpAddr>,
    /// Path MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Segment size to advertise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// Resolver settings of the result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers, in order.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search list.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The result of ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResult {
    /// Version of the form it came in, and is written in by default.
    #[serde(rename = "cniVersion")]
    pub version: Version,
    /// Interfaces made, host and container side.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses assigned.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    /// Routes made.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Resolver settings.
    #[serde(default, skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

/// One address of a 0.1 or 0.2 result.
#[derive(Deserialize)]
struct OldIp {
    ip: IpNet,
    #[serde(default, deserialize_with = "gateway")]
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "list")]
    routes: Vec<Route>,
}

#[derive(Deserialize)]
struct OldResult {
    ip4: Option<OldIp>,
    ip6: Option<OldIp>,
    #[serde(default)]
    dns: Dns,
}

impl AddResult {
    /// A result with nothing in it.
    #[must_use]
    pub fn new(version: Version) -> Self {
        Self {
            version,
            interfaces: Vec::new(),
            ips: Vec::new(),
            routes: Vec::new(),
            dns: Dns::default(),
        }
    }

    /// Reads a result in the form of the version it names, or of `assumed` where it names none.
    ///
    /// # Errors
    /// When it is no result, or of a version that is not spoken.
    pub fn from_value(value: &Value, assumed: Version) -> Result<Self, Error> {
        let wrong = |cause: &dyn std::fmt::Display| Error::new(Code::Decoding, format!("not a CNI result: {cause}"));
        let Value::Object(map) = value else {
            return Err(wrong(&"an object is wanted"));
        };
        let version = match map.get("cniVersion").and_then(Value::as_str) {
            None | Some("") => assumed,
            Some(text) => text.parse::<Version>().map_err(|e| wrong(&e))?,
        };
        if !version.is_supported() {
            return Err(Error::new(
                Code::IncompatibleVersion,
                format!("result of CNI version {version} is not understood"),
            ));
        }
        if version < Version::LISTS {
            let old = OldResult::deserialize(value).map_err(|e| wrong(&e))?;
            let mut result = Self {
                dns: old.dns,
                ..Self::new(version)
            };
            for ip in [old.ip4, old.ip6].into_iter().flatten() {
                result.ips.push(IpConfig {
                    interface: None,
                    address: ip.ip,
                    gateway: ip.gateway,
                });
                result.routes.extend(ip.routes);
            }
            return Ok(result);
        }
        let mut map = map.clone();
        map.insert("cniVersion".to_owned(), Value::String(version.to_string()));
        Self::deserialize(Value::Object(map)).map_err(|e| wrong(&e))
    }

    /// Reads a result from bytes.
    ///
    /// # Errors
    /// As [`AddResult::from_value`], or when it is no JSON.
    pub fn parse(bytes: &[u8], assumed: Version) -> Result<Self, Error> {
        let value = serde_json::from_slice(bytes)
            .map_err(|error| Error::new(Code::Decoding, format!("not a CNI result: {error}")))?;
        Self::from_value(&value, assumed)
    }

    /// The result in the form of `version`.
    ///
    /// # Errors
    /// When that form cannot hold it (0.2 knows one address of each family), or is not known.
    pub fn to_value(&self, version: Version) -> Result<Value, Error> {
        if !version.is_supported() {
            return Err(Error::new(
                Code::IncompatibleVersion,
                format!("CNI version {version} is not spoken"),
            ));
        }
        if version < Version::LISTS {
            return self.to_old(version);
        }
        let failed = |error: serde_json::Error| Error::new(Code::Internal, error.to_string());
        let mut value = serde_json::to_value(self).map_err(failed)?;
        if let Value::Object(map) = &mut value {
            map.insert("cniVersion".to_owned(), Value::String(version.to_string()));
            if version < Version::V1
                && let Some(Value::Array(ips)) = map.get_mut("ips")
            {
                for (ip, config) in ips.iter_mut().zip(&self.ips) {
                    let family = if config.address.addr().is_ipv4() { "4" } else { "6" };
                    if let Value::Object(ip) = ip {
                        ip.insert("version".to_owned(), Value::String(family.to_owned()));
                    }
                }
            }
        }
        Ok(value)
    }

    fn to_old(&self, version: Version) -> Result<Value, Error> {
        let mut map = Map::new();
        map.insert("cniVersion".to_owned(), Value::String(version.to_string()));
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let mut of_family = self.ips.iter().filter(|ip| ip.address.addr().is_ipv4() == v4);
            let Some(ip) = of_family.next() else { continue };
            if of_family.next().is_some() {
                let text = format!("CNI version {version} cannot tell of more than one address of a family");
                return Err(Error::new(Code::IncompatibleVersion, text));
            }
            let routes: Vec<_> = self
                .routes
                .iter()
                .filter(|route| route.dst.addr().is_ipv4() == v4)
                .collect();
            let mut entry = json!({ "ip": ip.address, "routes": routes });
            if let (Value::Object(entry), Some(gateway)) = (&mut entry, ip.gateway) {
                entry.insert("gateway".to_owned(), json!(gateway));
            }
            map.insert(key.to_owned(), entry);
        }
        map.insert("dns".to_owned(), json!(self.dns));
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"cni0","mac":"aa:bb:cc:dd:ee:ff"},
        {"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"interface":1,"address":"10.1.0.5/16","gateway":"10.1.0.1"},
        {"interface":1,"address":"fd00::5/64"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0","gw":"fd00::1"}],
        "dns":{"nameservers":["10.1.0.1"]},"futureField":{"x":1}}"#;

    #[test]
    fn every_version_takes_and_gives_back_a_result() {
        let result = AddResult::parse(NEW.as_bytes(), Version::CURRENT).unwrap();
        assert_eq!(result.ips[0].address.addr().to_string(), "10.1.0.5");
        for version in Version::SUPPORTED {
            let text = serde_json::to_vec(&result.to_value(version).unwrap()).unwrap();
            let back = AddResult::parse(&text, Version::UNNAMED).unwrap();
            assert_eq!(back.version, version);
            assert_eq!(
                (&back.routes, &back.dns, back.ips.len()),
                (&result.routes, &result.dns, 2),
                "{version}"
            );
            if version >= Version::LISTS {
                assert_eq!(
                    (&back.ips, &back.interfaces),
                    (&result.ips, &result.interfaces),
                    "{version}"
                );
            }
        }
        let old = result.to_value(Version::CHECK).unwrap();
        assert_eq!(old["ips"][1]["version"], "6");
        assert!(result.to_value(Version::V1).unwrap()["ips"][1].get("version").is_none());
    }

    #[test]
    fn what_go_writes_for_nothing_is_nothing() {
        let text =
            br#"{"cniVersion":"0.4.0","interfaces":null,"ips":[{"version":"4","address":"1.2.3.4/8","gateway":""}],
            "routes":null,"dns":{"search":null}}"#;
        let result = AddResult::parse(text, Version::CURRENT).unwrap();
        assert_eq!((result.ips[0].gateway, result.routes.len()), (None, 0));
    }

    #[test]
    fn rubbish_is_an_error() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for bad in [
            "",
            "[]",
            "{\"ips\":5}",
            "{\"ips\":[{\"address\":\"x\"}]}",
            "{\"cniVersion\":\"9.0.0\"}",
            &deep,
        ] {
            assert!(AddResult::parse(bad.as_bytes(), Version::CURRENT).is_err());
        }
    }

    #[test]
    fn an_old_version_refuses_what_it_cannot_hold() {
        let mut result = AddResult::parse(NEW.as_bytes(), Version::CURRENT).unwrap();
        let more = result.ips[0].clone();
        result.ips.push(more);
        assert!(result.to_value(Version::new(0, 2, 0)).is_err());
    }

    #[test]
    fn damage_anywhere_is_an_error_or_a_result_but_never_a_panic() {
        let conf = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","capabilities":{"a":true}}]}"#;
        for text in [NEW, conf] {
            for at in 0..text.len() {
                for byte in [b'0', b'"', b'}', b'[', b'-', 0, 0xff] {
                    let mut bytes = text.as_bytes().to_vec();
                    bytes[at] = byte;
                    drop(AddResult::parse(&bytes, Version::CURRENT));
                    drop(crate::NetworkList::parse_single(&bytes));
                    drop(Error::parse(&bytes));
                }
                assert!(AddResult::parse(&text.as_bytes()[..at], Version::CURRENT).is_err());
                assert!(crate::NetworkList::parse(&text.as_bytes()[..at]).is_err());
            }
        }
    }
}
