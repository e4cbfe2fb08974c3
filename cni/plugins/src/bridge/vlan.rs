//! VLANs: what a port carries, and the leg `<bridge>.<id>` by which the host itself is in one.

use std::time::Duration;

use cni_netlink::link::{self, Link, Veth};
use cni_netlink::{Batch, Change, Socket, port};
use rustix::io::Errno;

use super::conf::Conf;
use super::host;
use crate::fault::{Fault, Result};

/// The VLAN every port is in when it is made.
const DEFAULT_VLAN: u16 = 1;

/// Sets the VLANs of a port.
pub(super) fn port(socket: &mut Socket, port: &Link, conf: &Conf) -> Result<()> {
    if !conf.vlan_filtering() {
        return Ok(());
    }
    let mut batch = Batch::new();
    if !conf.keep_default_vlan {
        batch.push_or(port::delete_vlan(port.index, DEFAULT_VLAN), Errno::NOENT);
    }
    if let Some(id) = conf.vlan {
        batch.push(port::add_vlan(port.index, id, true));
    }
    for id in &conf.trunk {
        batch.push(port::add_vlan(port.index, *id, false));
    }
    // A trunk alone keeps VLAN 1 for what comes without a tag, as the reference does.
    if conf.vlan.is_none() {
        batch.push(port::add_vlan(port.index, DEFAULT_VLAN, true));
    }
    socket.run(batch)?;
    Ok(())
}

/// The host's leg in VLAN `id`, made where it is missing.
pub(super) fn leg(socket: &mut Socket, bridge: &Link, conf: &Conf, id: u16) -> Result<Link> {
    let name = format!("{}.{id}", bridge.name);
    cni_types::name::interface(&name).map_err(|error| Fault::config(error.to_string()))?;
    if let Some(leg) = host::find(socket, &name)? {
        return Ok(leg);
    }
    let near = super::add::veth_name()?;
    let veth = Veth {
        name: &near,
        peer: &name,
        netns: None,
        mtu: conf.mtu,
        peer_mac: None,
        master: Some(bridge.index),
    };
    let mut batch = Batch::new();
    batch.push_or(link::add_veth(&veth), Errno::EXIST);
    let lost = socket
        .run(batch)?
        .first()
        .is_some_and(|outcome| outcome.tolerated.is_some());
    if lost {
        // Another ADD made it first; it is usable when it is up.
        for _ in 0..100 {
            if let Some(leg) = host::find(socket, &name)?.filter(Link::is_up) {
                return Ok(leg);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        return Err(Fault::internal(format!("{name} does not come up")));
    }
    let port_link = host::find(socket, &near)?.ok_or_else(|| Fault::internal(format!("{near} vanished")))?;
    let only_this = Conf {
        trunk: Vec::new(),
        dns: cni_types::Dns::default(),
        bridge: String::new(),
        ..*conf
    };
    port(socket, &port_link, &only_this)?;
    let leg = host::find(socket, &name)?.ok_or_else(|| Fault::internal(format!("{name} vanished")))?;
    let mut batch = Batch::new();
    batch.push(Change::new().no_link_local().request(port_link.index));
    batch.push(Change::new().up(true).request(port_link.index));
    batch.push(Change::new().up(true).request(leg.index));
    socket.run(batch)?;
    Ok(leg)
}
