//! ADD: bridge, pair, address, container's end, gateway, masquerading. When a step fails, what
//! was made for this container goes again; the bridge stays, it is everybody's.

use std::fmt::Write as _;
use std::os::fd::AsFd as _;

use cni_netlink::link::{self, Link, Veth};
use cni_netlink::{Batch, Change, NetNs, Socket, port};
use cni_types::{AddResult, Interface};
use ipnet::IpNet;
use rustix::io::Errno;

use super::conf::Conf;
use super::pod::Announcement;
use super::{gateway, host, owner, pod, vlan};
use crate::fault::{Fault, Result, undone};
use crate::skel::{Added, Call};
use crate::{ipam, masquerade, sysctl};

/// A name as the reference gives it: `veth` and eight random digits.
pub(super) fn veth_name() -> Result<String> {
    let mut bytes = [0; 4];
    host::random(&mut bytes)?;
    let mut name = "veth".to_owned();
    for byte in bytes {
        // Writing to a String cannot fail.
        write!(name, "{byte:02x}").unwrap_or_default();
    }
    Ok(name)
}

pub(super) fn add(call: &Call) -> Result<Added> {
    let conf = Conf::load(call)?;
    let ipam = ipam::plugin(call)?;
    let home = NetNs::current()?;
    let netns = NetNs::open(call.netns()?)?;
    if netns.same(&home)? {
        return Err(Fault::config("CNI_NETNS is the host's own namespace"));
    }
    netns.lock()?;
    let mut socket = Socket::route()?;
    let bridge = host::ensure_bridge(&mut socket, &conf)?;
    let port = make_pair(&mut socket, call, &conf, &bridge, &netns)?;
    let done = attach(
        &mut socket,
        call,
        &conf,
        ipam.as_deref(),
        &Ends {
            home,
            netns,
            bridge,
            port,
        },
    );
    let done = done.map(|made| match made.announcement {
        Some(announcement) => Added::Then(made.result, Box::new(|| announcement.send())),
        None => Added::Result(made.result),
    });
    done.map_err(|(fault, port)| {
        let mut undo = Batch::new();
        undo.push_or(link::delete(&port), Errno::NODEV);
        undone(fault, socket.run(undo).map(drop).map_err(Fault::from))
    })
}

struct Ends {
    home: NetNs,
    netns: NetNs,
    bridge: Link,
    port: Link,
}

/// Makes the pair, the near end a port of the bridge, the far end where it belongs.
fn make_pair(socket: &mut Socket, call: &Call, conf: &Conf, bridge: &Link, netns: &NetNs) -> Result<Link> {
    let name = veth_name()?;
    let veth = Veth {
        name: &name,
        peer: &call.ifname,
        netns: Some(netns.as_fd()),
        mtu: conf.mtu,
        peer_mac: conf.mac,
        master: Some(bridge.index),
    };
    let mut batch = Batch::new();
    batch.push(link::add_veth(&veth)).push(link::get(&name));
    let outcomes = socket.run(batch)?;
    let port = outcomes
        .last()
        .and_then(|outcome| outcome.replies.first())
        .and_then(Link::parse);
    port.ok_or_else(|| Fault::internal(format!("{name} vanished")))
}

/// What was made, and what the neighbours are to be told of it.
struct Made {
    result: AddResult,
    announcement: Option<Announcement>,
}

type Attached = std::result::Result<Made, (Fault, String)>;

/// Everything after the pair; with the name of the port on failure, for its undo.
fn attach(socket: &mut Socket, call: &Call, conf: &Conf, ipam: Option<&str>, ends: &Ends) -> Attached {
    let port_failed = |fault| (fault, ends.port.name.clone());
    set_port(socket, conf, &ends.port).map_err(port_failed)?;
    let Some(plugin) = ipam else {
        return finish(
            socket,
            call,
            conf,
            ends,
            Planned {
                result: AddResult::new(call.version),
                gateways: &[],
            },
        )
        .map_err(port_failed);
    };
    let result = ipam::add(call, plugin).map_err(port_failed)?;
    with_addresses(socket, call, conf, ends, result).map_err(|fault| {
        let rules = if conf.masquerade {
            masquerade::del(&owner(call)).map(drop)
        } else {
            Ok(())
        };
        port_failed(undone(undone(fault, rules), ipam::del(call, plugin)))
    })
}

fn with_addresses(socket: &mut Socket, call: &Call, conf: &Conf, ends: &Ends, mut result: AddResult) -> Result<Made> {
    if result.ips.is_empty() {
        return Err(Fault::internal("the IPAM plugin gave no address"));
    }
    result.interfaces.clear();
    let gateways = gateway::plan(conf, &mut result)?;
    finish(
        socket,
        call,
        conf,
        ends,
        Planned {
            result,
            gateways: &gateways,
        },
    )
}

fn set_port(socket: &mut Socket, conf: &Conf, port: &Link) -> Result<()> {
    // A port of a bridge speaks no IP of its own, and hears no router (CVE-2020-10749).
    sysctl::set_if_there(&format!("ipv6/conf/{}/accept_ra", port.name), "0")?;
    let mut batch = Batch::new();
    // Two requests: in one, the link would come up first and make its address.
    batch.push(Change::new().no_link_local().request(port.index));
    batch.push(Change::new().up(true).request(port.index));
    if conf.hairpin || conf.isolated {
        batch.push(port::set(port.index, conf.hairpin, conf.isolated));
    }
    socket.run(batch)?;
    vlan::port(socket, port, conf)
}

struct Planned<'a> {
    result: AddResult,
    gateways: &'a [IpNet],
}

/// The container's end, the bridge's addresses, and the result that tells of both.
fn finish(socket: &mut Socket, call: &Call, conf: &Conf, ends: &Ends, planned: Planned<'_>) -> Result<Made> {
    let Planned { mut result, gateways } = planned;
    let far = ends
        .port
        .peer
        .ok_or_else(|| Fault::internal("the kernel did not tell the far end of the pair"))?;
    let has_v6 = result.ips.iter().any(|config| config.address.addr().is_ipv6());
    let mut inside = pod::enter(&ends.netns, &ends.home, &call.ifname, conf, has_v6)?;
    let mut leg = None;
    for net in gateways {
        if let (Some(id), None) = (conf.vlan, &leg) {
            leg = Some(vlan::leg(socket, &ends.bridge, conf, id)?);
        }
        host::ensure_address(socket, leg.as_ref().unwrap_or(&ends.bridge), *net, conf.force_address)?;
    }
    host::forward(gateways)?;
    let container = pod::configure(&mut inside, far, conf, &result)?;
    // While the kernel tells the bridge that the port has a carrier, for which it goes through all ports.
    if conf.masquerade && !result.ips.is_empty() {
        let addresses: Vec<IpNet> = result.ips.iter().map(|config| config.address).collect();
        masquerade::add(&owner(call), &addresses)?;
    }
    let port = if conf.leave_down {
        ends.port.clone()
    } else {
        host::await_port(socket, &ends.port)?
    };
    // The first port may have given the bridge its hardware address.
    let bridge = host::find(socket, &ends.bridge.name)?.unwrap_or_else(|| ends.bridge.clone());
    let interface = |link: &Link| Interface {
        name: link.name.clone(),
        mac: link.mac_text(),
        ..Interface::default()
    };
    let sandbox = ends.netns.path().display().to_string();
    result.interfaces = vec![
        interface(&bridge),
        interface(&port),
        Interface {
            sandbox,
            ..interface(&container)
        },
    ];
    result.interfaces.extend(leg.as_ref().map(interface));
    if !conf.dns.is_empty() {
        result.dns = conf.dns.clone();
    }
    let announcement = if conf.leave_down {
        None
    } else {
        Announcement::of(inside, &container, conf, &result)
    };
    Ok(Made { result, announcement })
}
