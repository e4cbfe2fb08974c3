//! DEL: masquerading, interface, address.
//!
//! The address goes after the interface, so that nobody is given it while the old owner still
//! answers; the rules go first. With the namespace gone the interface is gone too. What can be
//! done is done, whatever becomes of the rest. An ADD of the same namespace that is still at work is waited for.
//!
//! Two waits of the kernel are for memory alone: `rcu_barrier` after a link's deletion, and the
//! grace period before deleted rules are freed, which whoever closes the netfilter socket waits
//! for. A forked child has both, as it alone sends the request and is the last to close. DEL ends
//! when the link is out of every list, and the child whenever the kernel lets it go.

use std::os::fd::AsFd;

use cni_netlink::{Deletion, NetNs, Socket};

use super::{conf::Conf, owner};
use crate::fault::{Fault, Result};
use crate::skel::Call;
use crate::{ipam, masquerade};

pub(super) fn del(call: &Call) -> Result<()> {
    let (netns, opened) = match open(call) {
        Ok(netns) => (netns, Ok(())),
        Err(fault) => (None, Err(fault)),
    };
    let rules = Conf::masquerades(call)
        .then(|| masquerade::del(&owner(call)))
        .transpose();
    let (rules, no_rules) = match rules {
        Ok(socket) => (socket, Ok(())),
        Err(fault) => (None, Err(fault)),
    };
    let deleted = opened.and_then(|()| delete_interface(call, netns.as_ref(), rules));
    let rest = deleted.and_then(|()| match ipam::plugin(call)? {
        Some(plugin) => ipam::del(call, &plugin),
        None => Ok(()),
    });
    match (rest, no_rules) {
        (Err(first), second) => Err(crate::fault::undone(first, second)),
        (Ok(()), second) => second,
    }
}

/// The namespace, and nobody else at work in it; none where it is missing or, after a reboot, a plain file: either way
/// no interface is left.
fn open(call: &Call) -> Result<Option<NetNs>> {
    match call.netns.as_deref().map(NetNs::open) {
        None => Ok(None),
        Some(Ok(netns)) => {
            netns.lock()?;
            Ok(Some(netns))
        }
        Some(Err(cni_netlink::Error::Namespace { op: "open", source, .. }))
            if matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(None)
        }
        Some(Err(error)) => Err(error.into()),
    }
}

fn delete_interface(call: &Call, netns: Option<&NetNs>, rules: Option<Socket>) -> Result<()> {
    let link = match netns {
        Some(netns) => prepare(netns, &call.ifname)?,
        None => None,
    };
    behind(link, rules)
}

fn prepare(netns: &NetNs, ifname: &str) -> Result<Option<Deletion>> {
    let home = NetNs::current()?;
    if netns.same(&home)? {
        return Err(Fault::config("CNI_NETNS is the host's own namespace"));
    }
    netns.within(&home, || Ok(Deletion::prepare(ifname)?))
}

/// Deletes the link, and closes the socket that deleted rules, without the waits.
fn behind(link: Option<Deletion>, rules: Option<Socket>) -> Result<()> {
    if link.is_none() && rules.is_none() {
        return Ok(());
    }
    let asker = sys::process::fork(|| wait_for_memory(link.as_ref(), rules.as_ref()));
    let asker = asker.and_then(sys::process::pidfd_open);
    let asker =
        asker.map_err(|error| Fault::internal(format!("start a process that deletes the interface: {error}")))?;
    match link {
        Some(link) => Ok(link.seen(asker.as_fd())?),
        None => Ok(()),
    }
}

/// The child. Nobody waits for it: whoever called the plugin must not see its streams stay open.
fn wait_for_memory(link: Option<&Deletion>, rules: Option<&Socket>) -> u8 {
    let keep: Vec<_> = link
        .map(AsFd::as_fd)
        .into_iter()
        .chain(rules.map(AsFd::as_fd))
        .collect();
    let closed = sys::process::close_all_but(&keep).and_then(|()| sys::fds::close_standard());
    // The kernel's answer is heard by the parent, on the same socket.
    let asked = link.map_or(Ok(()), Deletion::ask);
    u8::from(closed.is_err() || asked.is_err())
}
