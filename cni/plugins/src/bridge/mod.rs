//! `bridge`: a veth pair from the container to a bridge of the host.
//!
//! | part      | what                                                          |
//! |-----------|---------------------------------------------------------------|
//! | `conf`    | configuration and arguments → what to do (pure)               |
//! | `gateway` | which gateways and routes follow from the addresses (pure)    |
//! | `add`     | ADD, step by step, each step with its undo                    |
//! | `host`    | the bridge: made, addressed, set to forward                   |
//! | `pod`     | the container's end: addresses, routes, IPv6 settings         |
//! | `reach`   | waits until IPv6 neighbours can find an address                |
//! | `vlan`    | VLANs of a port, and the host's own leg in one                |
//! | `check`   | CHECK                                                         |
//!
//! Every name, comment and file is the reference plugin's (v1.9.1), so either DELs what the
//! other ADDed. Masquerading is done by nftables alone; `ipMasqBackend: iptables` is an error.

mod add;
mod check;
mod conf;
mod gateway;
mod host;
mod pod;
mod reach;
mod vlan;

use cni_netlink::{NetNs, Socket, link};
use rustix::io::Errno;

use self::conf::Conf;
use crate::fault::{Fault, Result};
use crate::skel::{Call, Plugin};
use crate::{ipam, masquerade};

pub(crate) static PLUGIN: Plugin = Plugin {
    name: "bridge",
    add: add::add,
    del,
    check: check::check,
    gc,
    status,
};

fn owner(call: &Call) -> masquerade::Owner<'_> {
    masquerade::Owner {
        network: &call.network,
        ifname: &call.ifname,
        container: &call.container_id,
    }
}

/// DEL: masquerading, interface, address. The address goes after the interface, so that nobody
/// is given it while the old owner still answers; the rules go first, because the kernel frees
/// them in the background meanwhile (see `masquerade`). With the namespace gone the interface
/// is gone too. What can be done is done, whatever becomes of the rest.
fn del(call: &Call) -> Result<()> {
    let rules = Conf::masquerades(call)
        .then(|| masquerade::del(&owner(call)))
        .transpose();
    let rest = delete_interface(call).and_then(|()| match ipam::plugin(call)? {
        Some(plugin) => ipam::del(call, &plugin),
        None => Ok(()),
    });
    match (rest, rules.map(drop)) {
        (Err(first), second) => Err(crate::fault::undone(first, second)),
        (Ok(()), second) => second,
    }
}

fn delete_interface(call: &Call) -> Result<()> {
    match call.netns.as_deref().map(NetNs::open) {
        None => Ok(()),
        Some(Ok(netns)) => delete_link(&netns, &call.ifname),
        // Missing, or after a reboot a plain file: either way no interface is left.
        Some(Err(cni_netlink::Error::Namespace { op: "open", source, .. }))
            if matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(())
        }
        Some(Err(error)) => Err(error.into()),
    }
}

fn delete_link(netns: &NetNs, ifname: &str) -> Result<()> {
    let home = NetNs::current()?;
    if netns.same(&home)? {
        return Err(Fault::config("CNI_NETNS is the host's own namespace"));
    }
    let mut socket = netns.within(&home, Socket::route)?;
    let mut batch = cni_netlink::Batch::new();
    batch.push_or(link::delete(ifname), Errno::NODEV);
    socket.run(batch)?;
    Ok(())
}

fn gc(call: &Call) -> Result<()> {
    let valid = call.valid_attachments()?;
    if let Some(plugin) = ipam::plugin(call)? {
        ipam::forward(call, &plugin)?;
    }
    masquerade::gc(&call.network, &valid)
}

fn status(call: &Call) -> Result<()> {
    Conf::load(call)?;
    match ipam::plugin(call)? {
        Some(plugin) => ipam::forward(call, &plugin),
        None => Ok(()),
    }
}
