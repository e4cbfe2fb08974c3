//! `host-local`: addresses from ranges, kept in files that the reference plugin (v1.9.1) reads
//! and writes as well.
//!
//! | part    | what                                                             |
//! |---------|------------------------------------------------------------------|
//! | `conf`  | configuration → range sets, requested addresses (pure)           |
//! | `range` | a range and the order in which its addresses are tried (pure)    |
//! | `store` | the directory: one file for each address, the lock, the last one |
//! | `dns`   | a resolv.conf → resolver settings                                |

mod conf;
mod dns;
mod range;
mod store;

use std::net::IpAddr;

use cni_types::{AddResult, Code, IpConfig};

use self::conf::Ipam;
use self::range::RangeSet;
use self::store::Store;
use crate::fault::{Fault, Result};
use crate::skel::{Added, Call, Plugin};

pub(crate) static PLUGIN: Plugin = Plugin {
    name: "host-local",
    add,
    del: release,
    check,
    gc,
    status,
};

/// Whether a second ADD for the same container and interface can come this far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicates {
    /// It cannot: no search.
    Excluded,
    /// It can, and is refused.
    Refused,
}

fn add(call: &Call) -> Result<Added> {
    allocate(call, Duplicates::Refused).map(Added::Result)
}

/// Takes one address from each range set, all or none.
pub(crate) fn allocate(call: &Call, duplicates: Duplicates) -> Result<AddResult> {
    let ipam = Ipam::load(call)?;
    let mut result = AddResult::new(call.version);
    if let Some(path) = &ipam.resolv_conf {
        result.dns = dns::parse(path)?;
    }
    let store = Store::open(&ipam.dir)?;
    let owner = store::Owner {
        container: &call.container_id,
        ifname: &call.ifname,
    };
    if duplicates == Duplicates::Refused
        && let Some(held) = store
            .held_by(&owner)?
            .iter()
            .find(|ip| ipam.ranges.iter().any(|set| set.contains(**ip)))
    {
        let text = format!("{held} is held by container {} already", call.container_id);
        return Err(Fault::internal(text));
    }
    let mut wanted = ipam.requested.clone();
    let mut taken = Vec::new();
    let mut failed = None;
    for (index, set) in ipam.ranges.iter().enumerate() {
        let asked = wanted
            .iter()
            .position(|ip| set.contains(*ip))
            .map(|at| wanted.swap_remove(at));
        match take(&store, &owner, index, set, asked) {
            Ok(config) => {
                taken.push(config.address.addr());
                result.ips.push(config);
            }
            Err(fault) => {
                failed = Some(fault);
                break;
            }
        }
    }
    if failed.is_none() && !wanted.is_empty() {
        let list: Vec<_> = wanted.iter().map(ToString::to_string).collect();
        failed = Some(Fault::config(format!(
            "requested addresses {} are in no range of the network",
            list.join(", ")
        )));
    }
    if let Some(fault) = failed {
        for ip in taken {
            store.free(ip, &owner)?;
        }
        return Err(fault);
    }
    result.routes = ipam.routes;
    Ok(result)
}

fn take(
    store: &Store,
    owner: &store::Owner<'_>,
    index: usize,
    set: &RangeSet,
    asked: Option<IpAddr>,
) -> Result<IpConfig> {
    let config = |ip: IpAddr, range: &range::Range| {
        let address =
            ipnet::IpNet::new(ip, range.subnet.prefix_len()).map_err(|error| Fault::internal(error.to_string()))?;
        Ok(IpConfig {
            interface: None,
            address,
            gateway: Some(range.gateway),
        })
    };
    if let Some(ip) = asked {
        let range = set
            .range_of(ip)
            .ok_or_else(|| Fault::internal(format!("{ip} is in no range")))?;
        if ip == range.gateway {
            return Err(Fault::config(format!("requested address {ip} is the gateway's")));
        }
        if !store.reserve(ip, owner, index)? {
            return Err(Fault::new(
                Code::TryAgain,
                format!("requested address {ip} is taken ({set})"),
            ));
        }
        return config(ip, range);
    }
    for (ip, range) in set.candidates(store.last_reserved(index)?) {
        if store.reserve(ip, owner, index)? {
            return config(ip, range);
        }
    }
    // "Try again later": an address comes free when another container goes.
    Err(Fault::new(
        Code::TryAgain,
        format!("no IP addresses available in range set: {set}"),
    ))
}

/// Gives back what the container holds; nothing is fine. The addresses that `prevResult` names
/// are looked at first: with them, DEL costs the same however many containers there are.
pub(crate) fn release(call: &Call) -> Result<()> {
    let dir = conf::directory(call)?;
    let Some(store) = Store::open_existing(&dir)? else {
        return Ok(());
    };
    let owner = store::Owner {
        container: &call.container_id,
        ifname: &call.ifname,
    };
    // A previous result that cannot be read must not keep the address: search instead.
    let known: Vec<IpAddr> = match call.previous() {
        Ok(Some(previous)) => previous.ips.iter().map(|ip| ip.address.addr()).collect(),
        Ok(None) | Err(_) => Vec::new(),
    };
    let mut found = 0;
    for ip in &known {
        found += usize::from(store.free(*ip, &owner)?);
    }
    if known.is_empty() || found < known.len() {
        store.free_all(&owner)
    } else {
        Ok(())
    }
}

fn check(call: &Call) -> Result<()> {
    let dir = conf::directory(call)?;
    let owner = store::Owner {
        container: &call.container_id,
        ifname: &call.ifname,
    };
    let held = match Store::open_existing(&dir)? {
        Some(store) => store.held_by(&owner)?,
        None => Vec::new(),
    };
    if held.is_empty() {
        return Err(Fault::internal(format!(
            "no address is held by container {}",
            call.container_id
        )));
    }
    Ok(())
}

fn gc(call: &Call) -> Result<()> {
    let valid = call.valid_attachments()?;
    match Store::open_existing(&conf::directory(call)?)? {
        Some(store) => store.free_others(&valid),
        None => Ok(()),
    }
}

fn status(call: &Call) -> Result<()> {
    let ipam = Ipam::load(call)?;
    Store::open(&ipam.dir)
        .map(drop)
        .map_err(|fault| Fault::new(Code::NotAvailable, fault.to_string()))
}
