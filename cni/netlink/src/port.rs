//! Ports of a bridge: hairpin mode, isolation, VLANs.

use crate::link::{IFLA_AF_SPEC, header};
use crate::message::Message;

const IFLA_PROTINFO: u16 = 12;
const BRPORT_MODE: u16 = 4;
const BRPORT_ISOLATED: u16 = 33;
const BRIDGE_FLAGS: u16 = 0;
const BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_FLAGS_MASTER: u16 = 1;
const VLAN_PVID_UNTAGGED: u16 = 2 | 4;

/// Sets hairpin mode and isolation of a bridge port.
#[must_use]
pub fn set(index: u32, hairpin: bool, isolated: bool) -> Message {
    let mut message = Message::new(libc::RTM_SETLINK, 0, format!("set up bridge port number {index}"));
    message
        .fixed(&header(libc::AF_BRIDGE as u8, index, 0, 0))
        .nest(IFLA_PROTINFO, |m| {
            m.attr(BRPORT_MODE, &[u8::from(hairpin)])
                .attr(BRPORT_ISOLATED, &[u8::from(isolated)]);
        });
    message
}

fn vlan(kind: u16, what: String, index: u32, flags: u16, id: u16) -> Message {
    let mut message = Message::new(kind, 0, what);
    message
        .fixed(&header(libc::AF_BRIDGE as u8, index, 0, 0))
        .nest(IFLA_AF_SPEC, |m| {
            m.attr(BRIDGE_FLAGS, &BRIDGE_FLAGS_MASTER.to_ne_bytes());
            let mut info = [0; 4];
            info[..2].copy_from_slice(&flags.to_ne_bytes());
            info[2..].copy_from_slice(&id.to_ne_bytes());
            m.attr(BRIDGE_VLAN_INFO, &info);
        });
    message
}

/// Adds VLAN `id` to a bridge port; `native`: untagged traffic of the port belongs to it.
#[must_use]
pub fn add_vlan(index: u32, id: u16, native: bool) -> Message {
    let flags = if native { VLAN_PVID_UNTAGGED } else { 0 };
    vlan(
        libc::RTM_SETLINK,
        format!("add VLAN {id} to bridge port number {index}"),
        index,
        flags,
        id,
    )
}

/// Takes VLAN `id` from a bridge port.
#[must_use]
pub fn delete_vlan(index: u32, id: u16) -> Message {
    vlan(
        libc::RTM_DELLINK,
        format!("delete VLAN {id} from bridge port number {index}"),
        index,
        0,
        id,
    )
}
