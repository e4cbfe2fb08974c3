//! The rules in `cni_hostport`.
//!
//! ```text
//! prerouting, output   [conditions] fib daddr type local jump hostports_all
//! hostports_all        jump hostip_hostports; jump hostports
//! hostports            [ip daddr H] tcp dport P dnat to C:Q        comment: container id
//! masquerading         container → itself, 127.0.0.1 → container   comment: container id
//! ```
//! Only packets to an address of this host are looked at (CVE-2025-67499), and the NAT happens
//! in the hooks' usual places: the host's filters still see every packet (CVE-2019-9946).
//! `localnet_guard` is ours: it drops what comes in by any link but `lo` for 127/8, which
//! `route_localnet` would let in (CVE-2020-8558).

use cni_netlink::Socket;
use cni_netlink::nft::{self, Family, Hook, PRIORITY_DNAT, PRIORITY_RAW, PRIORITY_SNAT, Transaction};
use cni_netlink::rule::{Rule, Side, Way};
use ipnet::IpNet;

use super::conf::Conf;
use crate::fault::{Fault, Result};

const TABLE: &str = "cni_hostport";
const ALL: &str = "hostports_all";
const OLD: &str = "hostip_hostports";
const PORTS: &str = "hostports";
const MASQUERADING: &str = "masquerading";
const GUARD: &str = "localnet_guard";

fn family(ipv4: bool) -> Family {
    if ipv4 { Family::Ipv4 } else { Family::Ipv6 }
}

fn loopback() -> Result<IpNet> {
    IpNet::new([127, 0, 0, 0].into(), 8).map_err(|error| Fault::internal(error.to_string()))
}

/// Marks the shared chains as ours and complete for this configuration. The reference flushes
/// and rewrites them at every ADD; we do where the mark is missing (why: see `masquerade`).
fn mark(conf: &Conf, ipv4: bool) -> String {
    let conditions = format!("{:?}", conf.conditions(ipv4));
    format!(
        "bulkhead 1 snat={} conditions={}",
        conf.snat,
        crate::masquerade::hash(&conditions)
    )
}

fn is_framed(socket: &mut Socket, conf: &Conf, ipv4: bool, mark: &str) -> Result<bool> {
    let guard = (conf.snat && ipv4).then_some((GUARD, 1));
    for chain in [("prerouting", 1), ("output", 1), (ALL, 2)].into_iter().chain(guard) {
        if !nft::is_marked(socket, family(ipv4), TABLE, chain, mark)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The chains that all containers share.
fn frame(change: &mut Transaction<'_>, conf: &Conf, ipv4: bool, mark: &str) -> Result<()> {
    let text = Some(mark);
    change.add_table("CNI portmap plugin");
    change
        .add_chain(PORTS, None)
        .add_chain(OLD, None)
        .add_chain(ALL, None)
        .flush_chain(ALL);
    change
        .add_rule(ALL, Rule::new().jump(OLD), text)
        .add_rule(ALL, Rule::new().jump(PORTS), text);
    for (chain, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let mut rule = Rule::new();
        for condition in conf.conditions(ipv4) {
            condition.apply(&mut rule);
        }
        rule.to_this_host().jump(ALL);
        change
            .add_nat_chain(chain, hook, PRIORITY_DNAT)
            .flush_chain(chain)
            .add_rule(chain, &rule, text);
    }
    if conf.snat {
        change.add_nat_chain(MASQUERADING, Hook::Postrouting, PRIORITY_SNAT);
        if ipv4 {
            let mut rule = Rule::new();
            rule.link(Way::In, "lo", true)
                .address(Side::Destination, loopback()?, false)
                .drop();
            change
                .add_filter_chain(GUARD, Hook::Prerouting, PRIORITY_RAW)
                .flush_chain(GUARD);
            change.add_rule(GUARD, &rule, text);
        }
    }
    Ok(())
}

/// Adds the mappings of a container to its address `target`.
pub(super) fn add(socket: &mut Socket, container: &str, conf: &Conf, target: IpNet) -> Result<()> {
    let ipv4 = target.addr().is_ipv4();
    let mark = mark(conf, ipv4);
    let mut framed = is_framed(socket, conf, ipv4, &mark)?;
    loop {
        let mut change = Transaction::new(family(ipv4), TABLE);
        if !framed {
            frame(&mut change, conf, ipv4, &mark)?;
        }
        of_container(&mut change, container, conf, target);
        match change.commit(socket) {
            // Somebody took a chain away after we looked.
            Err(error) if framed && error.is_missing() => framed = false,
            other => return Ok(other?),
        }
    }
}

/// The rules of one container.
fn of_container(change: &mut Transaction<'_>, container: &str, conf: &Conf, target: IpNet) {
    let (ip, ipv4) = (target.addr(), target.addr().is_ipv4());
    for mapping in conf.mappings.iter().filter(|mapping| mapping.is_for(ipv4)) {
        let mut rule = Rule::new();
        if let Some(host) = mapping.host_ip {
            rule.address(Side::Destination, host.into(), false);
        }
        rule.port(mapping.protocol.number(), mapping.host_port)
            .dnat(ip, mapping.container_port);
        change.add_rule(PORTS, &rule, Some(container));
    }
    if conf.snat {
        // The container to itself by the host's address, and its neighbours on the bridge,
        // whose answers would otherwise not come back through the host.
        let mut near = Rule::new();
        if !conf.masq_all {
            near.address(Side::Source, target.trunc(), false);
        }
        near.address(Side::Destination, ip.into(), false)
            .translated()
            .masquerade();
        change.add_rule(MASQUERADING, &near, Some(container));
        if ipv4 {
            let mut local = Rule::new();
            local.address(Side::Source, IpNet::from(std::net::IpAddr::from([127, 0, 0, 1])), false);
            local.address(Side::Destination, ip.into(), false).masquerade();
            change.add_rule(MASQUERADING, &local, Some(container));
        }
    }
}

/// Removes every rule of a container; none is fine.
pub(super) fn del(socket: &mut Socket, container: &str) -> Result<()> {
    for ipv4 in [true, false] {
        let mut left = 5;
        loop {
            let mut change = Transaction::new(family(ipv4), TABLE);
            for chain in [PORTS, OLD, MASQUERADING] {
                for rule in nft::list_rules(socket, family(ipv4), TABLE, chain)? {
                    if rule.comment.as_deref() == Some(container) {
                        change.delete_rule(chain, rule.handle);
                    }
                }
            }
            match change.commit(socket) {
                // Somebody else removed one of them meanwhile: look again.
                Err(error) if error.is_missing() && left > 0 => left -= 1,
                other => break other?,
            }
        }
    }
    Ok(())
}

/// Makes sure that the rules of a container are all there.
pub(super) fn check(socket: &mut Socket, container: &str, conf: &Conf, target: IpNet) -> Result<()> {
    let ipv4 = target.addr().is_ipv4();
    let ports = conf.mappings.iter().filter(|mapping| mapping.is_for(ipv4)).count();
    let masquerading = usize::from(conf.snat) * (1 + usize::from(ipv4));
    for (chain, wanted) in [(PORTS, ports), (MASQUERADING, masquerading)] {
        let rules = if wanted > 0 {
            nft::list_rules(socket, family(ipv4), TABLE, chain)?
        } else {
            Vec::new()
        };
        let found = rules
            .iter()
            .filter(|rule| rule.comment.as_deref() == Some(container))
            .count();
        if found < wanted {
            let text = format!("{found} of {wanted} rules of the container are left in nftables chain {TABLE} {chain}");
            return Err(Fault::internal(text));
        }
    }
    Ok(())
}
