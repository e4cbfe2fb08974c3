//! Addresses of links.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::message::{Attrs, Message, address, ne32};
use crate::socket::Reply;

const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_MULTICAST: u16 = 7;
const IFA_FLAGS: u16 = 8;
const RTM_GETMULTICAST: u16 = 58;
/// Duplicate address detection has not ended.
pub const TENTATIVE: u32 = 0x40;
/// Duplicate address detection found another owner.
pub const DAD_FAILED: u32 = 0x08;
const NODAD: u32 = 0x02;

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn header(family: u8, prefix: u8, index: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[0] = family;
    bytes[1] = prefix;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

fn fill(message: &mut Message, index: u32, net: IpNet) {
    message
        .fixed(&header(family(net.addr()), net.prefix_len(), index))
        .ip(IFA_LOCAL, net.addr())
        .ip(IFA_ADDRESS, net.addr());
}

/// Adds `net` to the link with `index`. Without `dad` an IPv6 address is usable at once:
/// whoever asks the other side has made sure that it is the only one.
#[must_use]
pub fn add(index: u32, net: IpNet, dad: bool) -> Message {
    let mut message = Message::new(
        libc::RTM_NEWADDR,
        CREATE,
        format!("add address {net} to link number {index}"),
    );
    fill(&mut message, index, net);
    match net {
        IpNet::V4(v4) => {
            if v4.prefix_len() < 31 {
                message.ip(IFA_BROADCAST, v4.broadcast().into());
            }
        }
        IpNet::V6(_) => {
            if !dad {
                message.u32(IFA_FLAGS, NODAD);
            }
        }
    }
    message
}

/// Deletes `net` from the link with `index`.
#[must_use]
pub fn delete(index: u32, net: IpNet) -> Message {
    let mut message = Message::new(
        libc::RTM_DELADDR,
        0,
        format!("delete address {net} of link number {index}"),
    );
    fill(&mut message, index, net);
    message
}

/// Every address (a dump).
#[must_use]
pub fn list() -> Message {
    let mut message = Message::new(libc::RTM_GETADDR, 0, "list addresses");
    message.fixed(&header(0, 0, 0));
    message
}

/// The IPv6 multicast groups that links have joined (a dump).
#[must_use]
pub fn list_groups() -> Message {
    let mut message = Message::new(RTM_GETMULTICAST, 0, "list multicast groups");
    message.fixed(&header(libc::AF_INET6 as u8, 0, 0));
    message
}

/// Reads an answer to [`list_groups`]: the link and the group.
#[must_use]
pub fn parse_group(reply: &Reply) -> Option<(u32, IpAddr)> {
    let (head, attrs) = reply.body.split_at_checked(8)?;
    Some((ne32(&head[4..]), Attrs(attrs).find(IFA_MULTICAST).and_then(address)?))
}

/// The group that whoever looks for `ip` speaks to (RFC 4291, 2.7.1).
#[must_use]
pub fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// An address as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Link it belongs to.
    pub index: u32,
    /// Address and prefix.
    pub net: IpNet,
    /// `IFA_F_*`.
    pub flags: u32,
}

impl Address {
    /// Reads an `RTM_NEWADDR`.
    #[must_use]
    pub fn parse(reply: &Reply) -> Option<Self> {
        let (head, attrs) = reply.body.split_at_checked(8)?;
        let attrs = Attrs(attrs);
        let ip = attrs
            .find(IFA_LOCAL)
            .or_else(|| attrs.find(IFA_ADDRESS))
            .and_then(address)?;
        let flags = attrs.find(IFA_FLAGS).map_or(u32::from(head[2]), ne32);
        Some(Self {
            index: ne32(&head[4..]),
            net: IpNet::new(ip, head[1]).ok()?,
            flags,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Socket;

    #[test]
    fn the_loopback_address_is_listed() {
        let mut socket = Socket::route().unwrap();
        let all: Vec<_> = socket
            .dump(&list(), "addresses")
            .unwrap()
            .iter()
            .filter_map(Address::parse)
            .collect();
        assert!(
            all.iter().any(|a| a.index == 1 && a.net.to_string() == "127.0.0.1/8"),
            "{all:?}"
        );
    }

    #[test]
    fn the_group_of_an_address_ends_like_it() {
        let group = solicited_node("fd00::12:3456:789a".parse().unwrap());
        assert_eq!(group.to_string(), "ff02::1:ff56:789a");
        let mut socket = Socket::route().unwrap();
        let groups: Vec<_> = socket
            .dump(&list_groups(), "groups")
            .unwrap()
            .iter()
            .filter_map(parse_group)
            .collect();
        assert!(
            groups.iter().any(|(_, group)| group.to_string() == "ff02::1"),
            "{groups:?}"
        );
    }
}
