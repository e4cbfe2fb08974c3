//! `bridge`: a veth pair from the container to a bridge of the host.
//!
//! | part      | what                                                          |
//! |-----------|---------------------------------------------------------------|
//! | `conf`    | configuration and arguments → what to do (pure)               |
//! | `gateway` | which gateways and routes follow from the addresses (pure)    |
//! | `add`     | ADD, step by step, each step with its undo                    |
//! | `del`     | DEL, and what of it goes on when it is done                     |
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
mod del;
mod gateway;
mod host;
mod pod;
mod reach;
mod vlan;

use self::conf::Conf;
use crate::fault::Result;
use crate::skel::{Call, Plugin};
use crate::{ipam, masquerade};

pub(crate) static PLUGIN: Plugin = Plugin {
    name: "bridge",
    add: add::add,
    del: del::del,
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
