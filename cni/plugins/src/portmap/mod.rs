//! `portmap`: ports of the host lead to the container.
//!
//! | part         | what                                             |
//! |--------------|--------------------------------------------------|
//! | `conf`       | configuration, previous result → mappings (pure) |
//! | `conditions` | `conditionsV4`, `conditionsV6` (pure)            |
//! | `rules`      | the nftables tables of the reference plugin      |
//!
//! Tables, chains and comments are those of the reference plugin's nftables backend (v1.9.1):
//! `cni_hostport` in `ip` and `ip6`, rules found again by the container id in their comment.
//! GC leaves them alone: the comment names no network, so rules of another network's
//! containers cannot be told from stale ones; the caller's DEL of stale attachments does it.

mod conditions;
mod conf;
mod rules;

use cni_netlink::change::{Change, ROUTE_LOCALNET};
use cni_netlink::route::{self, Route};
use cni_netlink::{Socket, conntrack};

use self::conf::{Conf, Protocol};
use crate::fault::{Fault, Result};
use crate::skel::{Added, Call, Plugin, nothing};

pub(crate) static PLUGIN: Plugin = Plugin {
    name: "portmap",
    add,
    del,
    check,
    gc: nothing,
    status,
};

fn add(call: &Call) -> Result<Added> {
    let previous = call.conf.get("prevResult").filter(|value| !value.is_null()).cloned();
    let previous = previous.ok_or_else(|| Fault::config("portmap must be chained behind another plugin"))?;
    let conf = Conf::load(call)?;
    if conf.mappings.is_empty() {
        return Ok(Added::Unchanged(previous));
    }
    let mut netfilter = Socket::netfilter()?;
    for target in &conf.targets {
        rules::add(&mut netfilter, &call.container_id, &conf, *target)?;
        forget(&mut netfilter, &conf, target.addr().is_ipv4())?;
        if conf.snat && target.addr().is_ipv4() {
            route_localnet(target.addr())?;
        }
    }
    Ok(Added::Unchanged(previous))
}

/// A UDP flow that began before the mapping would pass it by for ever.
fn forget(socket: &mut Socket, conf: &Conf, ipv4: bool) -> Result<()> {
    for mapping in conf.mappings.iter().filter(|mapping| mapping.protocol == Protocol::Udp) {
        conntrack::forget_udp_port(socket, ipv4, mapping.host_port)?;
    }
    Ok(())
}

/// Lets 127.0.0.1 of the host reach the container: on the link towards it, packets from 127/8
/// are no martians. The guard that `rules` adds keeps neighbours out (CVE-2020-8558).
fn route_localnet(ip: std::net::IpAddr) -> Result<()> {
    let mut socket = Socket::route()?;
    let found = match socket.one(route::lookup(ip)) {
        // No route to the container: nothing to let through.
        Err(error) if matches!(error.errno(), Some(101 | 113)) => return Ok(()),
        other => other?,
    };
    if let Some(route) = found.first().and_then(Route::parse) {
        socket.one(Change::new().ipv4(ROUTE_LOCALNET, 1).request(route.index))?;
    }
    Ok(())
}

fn del(call: &Call) -> Result<()> {
    // Without mappings ADD did nothing. What else may be wrong with the configuration must
    // not keep DEL from removing the rules.
    if !conf::has_mappings(call) {
        return Ok(());
    }
    let mut socket = Socket::netfilter()?;
    rules::del(&mut socket, &call.container_id)?;
    // Flows that still lead to the container's address would lead to its next owner.
    if let Ok(Some(previous)) = call.previous() {
        for config in &previous.ips {
            conntrack::forget_udp_of(&mut socket, config.address.addr())?;
        }
    }
    Ok(())
}

fn check(call: &Call) -> Result<()> {
    call.required_previous()?;
    let conf = Conf::load(call)?;
    if conf.mappings.is_empty() {
        return Ok(());
    }
    let mut socket = Socket::netfilter()?;
    for target in &conf.targets {
        rules::check(&mut socket, &call.container_id, &conf, *target)?;
    }
    Ok(())
}

fn status(call: &Call) -> Result<()> {
    Conf::load(call).map(drop)
}
