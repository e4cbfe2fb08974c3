//! CHECK: what ADD reported is still there.

use cni_netlink::addr::{self, Address};
use cni_netlink::link::Link;
use cni_netlink::route::{self, Route};
use cni_netlink::{NetNs, Socket};

use super::conf::Conf;
use super::{gateway, host, owner};
use crate::fault::{Fault, Result};
use crate::skel::Call;
use crate::{ipam, masquerade};

fn gone(text: impl Into<String>) -> Fault {
    Fault::internal(text)
}

pub(super) fn check(call: &Call) -> Result<()> {
    let conf = Conf::load(call)?;
    let previous = call.required_previous()?;
    if let Some(plugin) = ipam::plugin(call)? {
        ipam::forward(call, &plugin)?;
    }
    let home = NetNs::current()?;
    let netns = NetNs::open(call.netns()?)?;
    let mut outside = Socket::route()?;
    let mut inside = netns.within(&home, Socket::route)?;

    let bridge =
        host::find(&mut outside, &conf.bridge)?.ok_or_else(|| gone(format!("bridge {} is gone", conf.bridge)))?;
    if bridge.kind != "bridge" {
        return Err(gone(format!("{} is no bridge", conf.bridge)));
    }
    let ours = |interface: &&cni_types::Interface| interface.name == call.ifname && !interface.sandbox.is_empty();
    let expected = previous
        .interfaces
        .iter()
        .find(ours)
        .ok_or_else(|| Fault::config(format!("prevResult does not tell of {}", call.ifname)))?;
    let container = host::find(&mut inside, &call.ifname)?.ok_or_else(|| gone(format!("{} is gone", call.ifname)))?;
    if container.kind != "veth" {
        return Err(gone(format!("{} is no veth", call.ifname)));
    }
    if !expected.mac.is_empty() && !expected.mac.eq_ignore_ascii_case(&container.mac_text()) {
        let text = format!(
            "{} has the hardware address {}, not {}",
            call.ifname,
            container.mac_text(),
            expected.mac
        );
        return Err(gone(text));
    }
    let peers = previous
        .interfaces
        .iter()
        .filter(|interface| interface.sandbox.is_empty());
    let mut attached = false;
    for peer in peers {
        let Some(link) = host::find(&mut outside, &peer.name)? else {
            continue;
        };
        attached |= is_port(&link, &container, &bridge);
    }
    if !attached {
        return Err(gone(format!(
            "{} of the container is not attached to bridge {}",
            call.ifname, conf.bridge
        )));
    }
    addresses(&mut inside, container.index, &previous)?;
    routes(&mut inside, &previous)?;
    if conf.masquerade && masquerade::count(&owner(call))? < previous.ips.len() {
        return Err(gone("masquerading rules are gone"));
    }
    Ok(())
}

fn is_port(link: &Link, container: &Link, bridge: &Link) -> bool {
    link.kind == "veth"
        && link.peer == Some(container.index)
        && container.peer == Some(link.index)
        && link.master == Some(bridge.index)
}

fn addresses(socket: &mut Socket, index: u32, previous: &cni_types::AddResult) -> Result<()> {
    let have: Vec<Address> = socket
        .dump(&addr::list(), "addresses")?
        .iter()
        .filter_map(Address::parse)
        .collect();
    for config in previous
        .ips
        .iter()
        .filter(|config| config.interface.is_none_or(|at| is_container(previous, at)))
    {
        if !have
            .iter()
            .any(|address| address.index == index && address.net == config.address)
        {
            return Err(gone(format!("address {} is gone", config.address)));
        }
    }
    Ok(())
}

fn is_container(previous: &cni_types::AddResult, at: usize) -> bool {
    previous
        .interfaces
        .get(at)
        .is_some_and(|interface| !interface.sandbox.is_empty())
}

fn routes(socket: &mut Socket, previous: &cni_types::AddResult) -> Result<()> {
    let have: Vec<Route> = socket
        .dump(&route::list(), "routes")?
        .iter()
        .filter_map(Route::parse)
        .collect();
    for route in &previous.routes {
        let gateway = route.gw.or_else(|| gateway::of_family(previous, route.dst.addr()));
        if !have
            .iter()
            .any(|have| have.dst == route.dst.trunc() && have.gateway == gateway)
        {
            return Err(gone(format!("the route to {} is gone", route.dst)));
        }
    }
    Ok(())
}
