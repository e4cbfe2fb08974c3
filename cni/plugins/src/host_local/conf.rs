//! The `ipam` part of a configuration, with what arguments and capabilities add to it.
//!
//! Requested addresses come from `CNI_ARGS` (`IP`), `args.cni.ips` and `runtimeConfig.ips`;
//! ranges from `runtimeConfig.ipRanges`, then `ipam` itself (one range, the old way), then
//! `ipam.ranges`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni_types::Route;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::range::{Range, RangeSet};
use crate::fault::{Fault, Result};
use crate::skel::Call;

const DATA_DIR: &str = "/var/lib/cni/networks";

/// One range as it is written.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct RawRange {
    pub(super) subnet: IpNet,
    #[serde(rename = "rangeStart")]
    pub(super) start: Option<IpAddr>,
    #[serde(rename = "rangeEnd")]
    pub(super) end: Option<IpAddr>,
    pub(super) gateway: Option<IpAddr>,
}

#[derive(Deserialize)]
struct RawIpam {
    #[serde(default)]
    ranges: Option<Vec<Vec<RawRange>>>,
    #[serde(default)]
    routes: Option<Vec<Route>>,
    #[serde(rename = "resolvConf", default)]
    resolv_conf: String,
}

/// What is to be allocated, and where it is kept.
#[derive(Debug)]
pub(super) struct Ipam {
    pub(super) ranges: Vec<RangeSet>,
    pub(super) requested: Vec<IpAddr>,
    pub(super) routes: Vec<Route>,
    pub(super) resolv_conf: Option<PathBuf>,
    pub(super) dir: PathBuf,
}

fn section(call: &Call) -> Result<&Value> {
    call.conf
        .get("ipam")
        .filter(|value| value.is_object())
        .ok_or_else(|| Fault::config("\"ipam\" is missing"))
}

/// The store's directory. `name` is checked to be one path component when the call is read.
pub(super) fn directory(call: &Call) -> Result<PathBuf> {
    let base = match section(call)?.get("dataDir").and_then(Value::as_str) {
        None | Some("") => Path::new(DATA_DIR),
        Some(dir) => Path::new(dir),
    };
    Ok(base.join(&call.network))
}

fn read<T: for<'de> Deserialize<'de>>(what: &str, value: &Value) -> Result<T> {
    T::deserialize(value).map_err(|error| Fault::config(format!("{what}: {error}")))
}

/// An address, or one with a prefix, whose prefix does not matter.
fn address(text: &str) -> Result<IpAddr> {
    let ip = text.split_once('/').map_or(text, |(ip, _)| ip);
    ip.trim()
        .parse()
        .map_err(|_| Fault::config(format!("requested address {text:?} is no IP address")))
}

impl Ipam {
    /// Reads it all and makes sure that it fits together.
    pub(super) fn load(call: &Call) -> Result<Self> {
        let ipam = section(call)?;
        let raw: RawIpam = read("ipam", ipam)?;
        let mut sets: Vec<Vec<RawRange>> = Vec::new();
        if let Some(ranges) = call
            .conf
            .get("runtimeConfig")
            .and_then(|rc| rc.get("ipRanges"))
            .filter(|v| !v.is_null())
        {
            sets.extend(read::<Vec<Vec<RawRange>>>("runtimeConfig.ipRanges", ranges)?);
        }
        if ipam
            .get("subnet")
            .and_then(Value::as_str)
            .is_some_and(|subnet| !subnet.is_empty())
        {
            sets.push(vec![read("ipam", ipam)?]);
        }
        sets.extend(raw.ranges.unwrap_or_default());
        if sets.is_empty() {
            return Err(Fault::config("ipam: no IP ranges"));
        }
        let ranges = sets
            .into_iter()
            .enumerate()
            .map(|(index, set)| {
                set.into_iter()
                    .map(Range::new)
                    .collect::<Result<Vec<_>>>()
                    .and_then(RangeSet::new)
                    .map_err(|fault| Fault::config(format!("range set {index}: {fault}")))
            })
            .collect::<Result<Vec<_>>>()?;
        for (index, set) in ranges.iter().enumerate() {
            if let Some(other) = ranges[..index].iter().position(|earlier| earlier.overlaps(set)) {
                return Err(Fault::config(format!("range set {other} overlaps with {index}")));
            }
        }
        Ok(Self {
            ranges,
            requested: requested(call)?,
            routes: raw.routes.unwrap_or_default(),
            resolv_conf: (!raw.resolv_conf.is_empty()).then(|| PathBuf::from(raw.resolv_conf)),
            dir: directory(call)?,
        })
    }
}

fn requested(call: &Call) -> Result<Vec<IpAddr>> {
    let mut list = Vec::new();
    if let Some(text) = call.arg("IP").filter(|text| !text.is_empty()) {
        list.push(address(text)?);
    }
    let from_args = call
        .conf
        .get("args")
        .and_then(|args| args.get("cni"))
        .and_then(|cni| cni.get("ips"));
    let from_runtime = call.conf.get("runtimeConfig").and_then(|rc| rc.get("ips"));
    for value in [from_args, from_runtime]
        .into_iter()
        .flatten()
        .filter(|value| !value.is_null())
    {
        for text in read::<Vec<String>>("requested ips", value)? {
            list.push(address(&text)?);
        }
    }
    list.sort_unstable();
    list.dedup();
    Ok(list)
}
