//! `loopback`: brings `lo` up in the container's namespace.

use cni_netlink::link::{self, Link};
use cni_netlink::{Change, NetNs, Socket};
use cni_types::{AddResult, Interface, IpConfig};

use crate::fault::{Fault, Result};
use crate::skel::{Added, Call, Plugin, nothing};

pub(crate) static PLUGIN: Plugin = Plugin {
    name: "loopback",
    add,
    del,
    check,
    gc: nothing,
    status: nothing,
};

fn set(call: &Call, up: bool) -> Result<()> {
    let netns = NetNs::open(call.netns()?)?;
    let mut socket = netns.within(&NetNs::current()?, Socket::route)?;
    let lo = socket.one(link::get("lo"))?.first().and_then(Link::parse);
    let lo = lo.ok_or_else(|| Fault::internal("the kernel did not describe lo"))?;
    socket.one(Change::new().up(up).request(lo.index))?;
    Ok(())
}

fn add(call: &Call) -> Result<Added> {
    set(call, true)?;
    // In a chain the result of the plugins before is passed on.
    if let Some(previous) = call.conf.get("prevResult").filter(|value| !value.is_null()) {
        return Ok(Added::Unchanged(previous.clone()));
    }
    let mut result = AddResult::new(call.version);
    result.interfaces.push(Interface {
        name: "lo".to_owned(),
        mac: "00:00:00:00:00:00".to_owned(),
        sandbox: call.netns()?.display().to_string(),
        ..Interface::default()
    });
    for (ip, prefix) in [
        (std::net::IpAddr::from([127, 0, 0, 1]), 8),
        (std::net::Ipv6Addr::LOCALHOST.into(), 128),
    ] {
        let address = ipnet::IpNet::new(ip, prefix).map_err(|error| Fault::internal(error.to_string()))?;
        result.ips.push(IpConfig {
            interface: Some(0),
            address,
            gateway: None,
        });
    }
    Ok(Added::Result(result))
}

fn del(call: &Call) -> Result<()> {
    if call.netns.is_none() {
        return Ok(());
    }
    match set(call, false) {
        // The namespace went first.
        Err(Fault::Net(error @ cni_netlink::Error::Namespace { .. })) if error.is_missing() => Ok(()),
        other => other,
    }
}

fn check(call: &Call) -> Result<()> {
    let netns = NetNs::open(call.netns()?)?;
    let mut socket = netns.within(&NetNs::current()?, Socket::route)?;
    match socket.one(link::get("lo"))?.first().and_then(Link::parse) {
        Some(lo) if lo.is_up() => Ok(()),
        _ => Err(Fault::internal("lo is down")),
    }
}
