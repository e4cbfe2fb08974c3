//! The container's end of the pair: settings that must precede its coming up, addresses, up,
//! routes, in one visit to its namespace and one batch.

use std::net::IpAddr;
use std::time::Duration;

use cni_netlink::addr::{self, Address};
use cni_netlink::change::{ARP_NOTIFY, Change};
use cni_netlink::link::{self, Link};
use cni_netlink::route::Route;
use cni_netlink::{Batch, NetNs, Socket};
use cni_types::AddResult;
use rustix::io::Errno;

use super::conf::Conf;
use super::gateway;
use crate::fault::{Fault, Result};
use crate::sysctl;

const DAD_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket in the container's namespace; on the way the IPv6 settings are written, because
/// sysctls show the namespace of the thread that opens them.
pub(super) fn enter(netns: &NetNs, home: &NetNs, ifname: &str, conf: &Conf, has_v6: bool) -> Result<Socket> {
    netns.within(home, || {
        if has_v6 {
            for name in ["lo", ifname] {
                sysctl::set(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
            }
            // Else the kernel forgets the address when the interface goes down.
            sysctl::set(&format!("ipv6/conf/{ifname}/keep_addr_on_down"), "1")?;
            if conf.dad {
                sysctl::set_if_there(&format!("ipv6/conf/{ifname}/enhanced_dad"), "1")?;
            }
            sysctl::set_if_there(
                &format!("ipv6/conf/{ifname}/accept_dad"),
                if conf.dad { "1" } else { "0" },
            )?;
        }
        Ok(Socket::route()?)
    })
}

/// Gives the interface its addresses, brings it up, makes the routes; returns it as it is then.
pub(super) fn configure(socket: &mut Socket, index: u32, conf: &Conf, result: &AddResult) -> Result<Link> {
    let mut batch = Batch::new();
    // What must hold before the link is up is a request of its own: within one, the kernel brings it up first (do_setlink).
    let mut before = Change::new();
    if let Some(mac) = mac_of(conf, result) {
        before = before.mac(mac);
    }
    if !result.ips.iter().any(|config| config.address.addr().is_ipv6()) {
        // An IPv4 network does not speak IPv6 behind its owner's back (CVE-2024-32473).
        before = before.no_link_local();
    }
    batch.push(before.request(index));
    for config in &result.ips {
        batch.push(addr::add(index, config.address, conf.dad));
    }
    if !conf.leave_down {
        // Up first, and nothing announced yet: see `Announcement`.
        batch.push(Change::new().up(true).ipv4(ARP_NOTIFY, 1).request(index));
        if conf.dad && result.ips.iter().any(|config| config.address.addr().is_ipv6()) {
            socket.run(std::mem::take(&mut batch))?;
            settle(socket, index)?;
        }
    }
    for route in &result.routes {
        let gateway = route.gw.or_else(|| gateway::of_family(result, route.dst.addr()));
        let mut request = Route::new(route.dst, gateway, index);
        (request.priority, request.table, request.scope) = (route.priority, route.table, route.scope);
        (request.mtu, request.advmss) = (route.mtu, route.advmss);
        batch.push_or(request.add(), Errno::EXIST);
    }
    // Asking for the link also settles its carrier (Linux 6.8), so that IPv6 works at once.
    batch.push(link::get_index(index));
    let outcomes = socket.run(batch)?;
    if !conf.leave_down {
        let nets: Vec<_> = result.ips.iter().map(|config| config.address).collect();
        super::reach::settle(socket, index, &nets)?;
    }
    let link = outcomes
        .last()
        .and_then(|outcome| outcome.replies.first())
        .and_then(Link::parse);
    link.ok_or_else(|| Fault::internal("the kernel did not describe the container's interface"))
}

/// How the hardware addresses of [`mac_of`] begin: locally administered.
const MAC_PREFIX: [u8; 2] = [0x0a, 0x58];

/// The hardware address that goes with the IPv4 address, in a network whose gateway is its bridge: all its addresses are
/// this node's. Whoever has an address next has the same of hardware, so what neighbours remember is never wrong and there
/// is nothing to announce. Elsewhere the kernel's random one is kept, as one that was asked for is.
fn mac_of(conf: &Conf, result: &AddResult) -> Option<[u8; 6]> {
    let mut v4 = result.ips.iter().filter_map(|config| match config.address.addr() {
        IpAddr::V4(v4) => Some(v4.octets()),
        IpAddr::V6(_) => None,
    });
    match (v4.next(), v4.next()) {
        (Some([a, b, c, d]), None) if conf.gateway && conf.mac.is_none() => {
            Some([MAC_PREFIX[0], MAC_PREFIX[1], a, b, c, d])
        }
        // Of two addresses each may be given on with another.
        _ => None,
    }
}

/// What tells the neighbours who has the address now; one that had it before may be in their tables.
///
/// It is a broadcast, which the bridge copies to each of its ports and each pod looks at, all of it within the system call
/// that causes it: 4 µs for each pod of the node. So it is sent when the answer is out. By giving the interface the
/// hardware address that it has: with `arp_notify` the kernel announces every IPv4 address then (inetdev_event,
/// NETDEV_CHANGEADDR).
#[derive(Debug)]
pub(super) struct Announcement {
    socket: Socket,
    index: u32,
    mac: [u8; 6],
}

impl Announcement {
    /// That of `link`, through a socket of its namespace; none without an IPv4 address, or where it tells nothing new.
    pub(super) fn of(socket: Socket, link: &Link, conf: &Conf, result: &AddResult) -> Option<Self> {
        if mac_of(conf, result).is_some() {
            return None;
        }
        let has_v4 = result.ips.iter().any(|config| config.address.addr().is_ipv4());
        let mac = <[u8; 6]>::try_from(link.mac.as_slice()).ok().filter(|_| has_v4)?;
        let index = link.index;
        Some(Self { socket, index, mac })
    }

    /// Sends it. Nobody is left to be told that it failed; a neighbour then finds out by itself, later.
    pub(super) fn send(mut self) {
        drop(self.socket.one(Change::new().mac(self.mac).request(self.index)));
    }
}

/// Waits for the end of duplicate address detection.
fn settle(socket: &mut Socket, index: u32) -> Result<()> {
    let pause = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        let all = socket.dump(&addr::list(), "addresses")?;
        let ours = all
            .iter()
            .filter_map(Address::parse)
            .filter(|address| address.index == index);
        let mut open = 0;
        for address in ours {
            if address.flags & addr::DAD_FAILED != 0 {
                return Err(Fault::internal(format!(
                    "{} is in use on the network already",
                    address.net.addr()
                )));
            }
            open += usize::from(address.flags & addr::TENTATIVE != 0);
        }
        if open == 0 {
            return Ok(());
        }
        if waited >= DAD_TIMEOUT {
            return Err(Fault::internal("duplicate address detection did not end within 5 s"));
        }
        std::thread::sleep(pause);
        waited += pause;
    }
}
