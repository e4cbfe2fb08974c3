//! The container's end of the pair: settings that must precede its coming up, addresses, up,
//! routes, in one visit to its namespace and one batch.

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
    for config in &result.ips {
        batch.push(addr::add(index, config.address, conf.dad));
    }
    if !conf.leave_down {
        // In a request of its own: within one, the kernel brings the link up first
        // (do_setlink), and it would have its link-local address already.
        let mut before = Change::new().ipv4(ARP_NOTIFY, 1);
        if !result.ips.iter().any(|config| config.address.addr().is_ipv6()) {
            // An IPv4 network does not speak IPv6 behind its owner's back (CVE-2024-32473).
            before = before.no_link_local();
        }
        batch
            .push(before.request(index))
            .push(Change::new().up(true).request(index));
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
