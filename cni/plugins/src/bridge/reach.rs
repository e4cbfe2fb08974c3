//! Waits until an IPv6 address can be found by its neighbours.
//!
//! The kernel joins the group by which neighbours look for an address in the background, also
//! without duplicate address detection (addrconf_dad_work). A neighbour that asks before is not
//! heard and asks again after a second: the first connection to a new pod would take that long.

use std::net::IpAddr;
use std::time::Duration;

use cni_netlink::{Socket, addr};
use ipnet::IpNet;

use crate::fault::Result;

const PATIENCE: Duration = Duration::from_secs(1);

/// Waits for the IPv6 addresses among `nets` on the link with `index`. After a second it gives
/// up without an error: the address works, only later.
pub(super) fn settle(socket: &mut Socket, index: u32, nets: &[IpNet]) -> Result<()> {
    let groups = nets.iter().filter_map(|net| match net.addr() {
        IpAddr::V6(v6) => Some(IpAddr::from(addr::solicited_node(v6))),
        IpAddr::V4(_) => None,
    });
    let mut missing: Vec<IpAddr> = groups.collect();
    let mut waited = Duration::ZERO;
    let mut pause = Duration::from_micros(100);
    while !missing.is_empty() && waited < PATIENCE {
        for (_, group) in socket
            .dump(&addr::list_groups(), "multicast groups")?
            .iter()
            .filter_map(addr::parse_group)
            .filter(|(link, _)| *link == index)
        {
            missing.retain(|wanted| *wanted != group);
        }
        if !missing.is_empty() {
            std::thread::sleep(pause);
            waited += pause;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
    Ok(())
}
