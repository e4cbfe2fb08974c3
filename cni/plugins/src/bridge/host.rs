//! The host's side: the bridge, its gateway addresses, forwarding.
//!
//! Two ADDs may make the same bridge at once; whoever comes second finds it (EEXIST is fine).

use std::time::Duration;

use cni_netlink::addr::{self, Address};
use cni_netlink::link::{self, Bridge, Link};
use cni_netlink::{Batch, Change, Socket};
use ipnet::IpNet;
use rustix::io::Errno;

use super::conf::Conf;
use crate::fault::{Fault, Result};
use crate::sysctl;

/// A locally administered unicast address.
fn random_mac() -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    random(&mut mac)?;
    mac[0] = mac[0] & 0xfc | 0x02;
    Ok(mac)
}

/// Fills `bytes` from the kernel.
pub(super) fn random(bytes: &mut [u8]) -> Result<()> {
    let got = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Fault::internal(format!("getrandom: {}", std::io::Error::from(errno))))?;
    if got == bytes.len() {
        Ok(())
    } else {
        Err(Fault::internal("getrandom gave too little"))
    }
}

/// The link named `name`, if there is one.
pub(super) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let mut batch = Batch::new();
    batch.push_or(link::get(name), Errno::NODEV);
    let outcomes = socket.run(batch)?;
    Ok(outcomes
        .first()
        .and_then(|outcome| outcome.replies.first())
        .and_then(Link::parse))
}

/// The bridge of the network, made where it is missing, up.
pub(super) fn ensure_bridge(socket: &mut Socket, conf: &Conf) -> Result<Link> {
    let mut found = find(socket, &conf.bridge)?;
    if found.is_none() {
        let spec = Bridge {
            name: &conf.bridge,
            mtu: conf.mtu,
            mac: random_mac()?,
            vlan_filtering: conf.vlan_filtering(),
        };
        let mut batch = Batch::new();
        batch.push_or(link::add_bridge(&spec), Errno::EXIST);
        match socket.run(batch) {
            Err(error) if conf.vlan_filtering() && error.errno() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                let text = format!("{error}: this kernel has no VLAN filtering for bridges");
                return Err(Fault::new(cni_types::Code::UnsupportedField, text));
            }
            other => other?,
        };
        // A router advertisement from a pod must not change the host's routes (CVE-2020-10749).
        sysctl::set_if_there(&format!("ipv6/conf/{}/accept_ra", conf.bridge), "0")?;
        found = find(socket, &conf.bridge)?;
    }
    let bridge = found.ok_or_else(|| Fault::internal(format!("bridge {} vanished", conf.bridge)))?;
    if bridge.kind != "bridge" {
        return Err(Fault::config(format!("{} exists but is no bridge", conf.bridge)));
    }
    let promisc = conf.promisc && bridge.flags & (libc_promisc()) == 0;
    if !bridge.is_up() || promisc {
        let mut change = Change::new().up(true);
        if promisc {
            change = change.promisc();
        }
        socket.one(change.request(bridge.index))?;
    }
    Ok(bridge)
}

/// `IFF_PROMISC` (linux/if.h).
const fn libc_promisc() -> u32 {
    0x100
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.addr()) || b.contains(&a.addr())
}

/// Gives `net` to the bridge (or its VLAN leg). In the common case it is there: one request.
pub(super) fn ensure_address(socket: &mut Socket, on: &Link, net: IpNet, force: bool) -> Result<()> {
    let mut batch = Batch::new();
    batch.push_or(addr::add(on.index, net, false), Errno::EXIST);
    if socket
        .run(batch)?
        .first()
        .is_some_and(|outcome| outcome.tolerated.is_some())
    {
        return Ok(());
    }
    let others: Vec<IpNet> = socket
        .dump(&addr::list(), "addresses")?
        .iter()
        .filter_map(Address::parse)
        .filter(|have| have.index == on.index && have.net != net && have.net.addr().is_ipv4() == net.addr().is_ipv4())
        .map(|have| have.net)
        // A bridge has one IPv4 address; of IPv6 any number, as long as the subnets differ.
        .filter(|have| net.addr().is_ipv4() || overlap(*have, net))
        .collect();
    if !others.is_empty() && !force {
        socket.one(addr::delete(on.index, net))?;
        let text = format!(
            "{} has the address {} and not {net}; forceAddress would replace it",
            on.name, others[0]
        );
        return Err(Fault::config(text));
    }
    let mut batch = Batch::new();
    for other in others {
        batch.push_or(addr::delete(on.index, other), Errno::ADDRNOTAVAIL);
    }
    // Pins the hardware address, which otherwise follows the ports as they come and go: as it
    // is now, for without a port it was zero.
    let now = socket.one(link::get_index(on.index))?.first().and_then(Link::parse);
    if let Some(mac) = now.and_then(|now| <[u8; 6]>::try_from(now.mac).ok()) {
        batch.push(Change::new().mac(mac).request(on.index));
    }
    socket.run(batch)?;
    super::reach::settle(socket, on.index, &[net])
}

/// Lets the host forward the families of `gateways`.
pub(super) fn forward(gateways: &[IpNet]) -> Result<()> {
    if gateways.iter().any(|net| net.addr().is_ipv4()) {
        sysctl::set("ipv4/ip_forward", "1")?;
    }
    if gateways.iter().any(|net| net.addr().is_ipv6()) {
        sysctl::set("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Waits until the port forwards. Since Linux 6.8 asking for the link settles it; before, it
/// may take a moment.
pub(super) fn await_port(socket: &mut Socket, port: &Link) -> Result<Link> {
    let mut waited = Duration::ZERO;
    let mut pause = Duration::from_micros(200);
    loop {
        let now = socket.one(link::get_index(port.index))?.first().and_then(Link::parse);
        let now = now.ok_or_else(|| Fault::internal(format!("port {} vanished", port.name)))?;
        if now.forwards() {
            return Ok(now);
        }
        if waited > Duration::from_millis(2500) {
            let text = format!(
                "bridge port {} does not come up (operational state {})",
                port.name, now.oper_state
            );
            return Err(Fault::internal(text));
        }
        std::thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
