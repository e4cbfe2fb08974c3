//! Links: requests to make, find, change and delete them, and the reader of the answers.
//!
//! A veth pair is made in one request, straight into its two namespaces: the peer's header and
//! attributes lie nested in `VETH_INFO_PEER`, its namespace as a descriptor in
//! `IFLA_NET_NS_FD`. Nothing is moved afterwards, and no name is ever taken in the wrong place.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::message::{Attrs, Message, ne32, string};
use crate::socket::Reply;

const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
pub(crate) const UP: u32 = libc::IFF_UP as u32;

pub(crate) const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
pub(crate) const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_AF_SPEC: u16 = 26;
const IFLA_STATS64: u16 = 23;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const BR_VLAN_FILTERING: u16 = 7;
const BRPORT_STATE: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// `IF_OPER_UP`.
pub const OPER_UP: u8 = 6;
/// `BR_STATE_FORWARDING`.
pub const PORT_FORWARDING: u8 = 3;

pub(crate) fn header(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// A link as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address.
    pub mac: Vec<u8>,
    /// MTU.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: u32,
    /// `bridge`, `veth`, …; empty for hardware and `lo`.
    pub kind: String,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Index of the other end, in that end's namespace.
    pub peer: Option<u32>,
    /// `IF_OPER_*`.
    pub oper_state: u8,
    /// `BR_STATE_*`, where it is a bridge port.
    pub port_state: Option<u8>,
    /// How many asked for promiscuous mode.
    pub promiscuity: u32,
}

impl Link {
    /// Reads an `RTM_NEWLINK`.
    #[must_use]
    pub fn parse(reply: &Reply) -> Option<Self> {
        let (head, attrs) = reply.body.split_at_checked(16)?;
        let mut link = Self {
            index: ne32(&head[4..]),
            flags: ne32(&head[8..]),
            ..Self::default()
        };
        for (kind, value) in Attrs(attrs) {
            match kind {
                IFLA_ADDRESS => link.mac = value.to_vec(),
                IFLA_IFNAME => link.name = string(value),
                IFLA_MTU => link.mtu = ne32(value),
                IFLA_LINK => link.peer = Some(ne32(value)),
                IFLA_MASTER => link.master = Some(ne32(value)),
                IFLA_OPERSTATE => link.oper_state = value.first().copied().unwrap_or(0),
                IFLA_PROMISCUITY => link.promiscuity = ne32(value),
                IFLA_LINKINFO => {
                    link.kind = Attrs(value).find(INFO_KIND).map(string).unwrap_or_default();
                    link.port_state = Attrs(value)
                        .find(INFO_SLAVE_DATA)
                        .and_then(|data| Attrs(data).find(BRPORT_STATE))
                        .and_then(|state| state.first().copied());
                }
                _ => {}
            }
        }
        Some(link)
    }

    /// Whether it is administratively up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & UP != 0
    }

    /// Whether it is the port of a bridge that forwards.
    #[must_use]
    pub fn forwards(&self) -> bool {
        self.oper_state == OPER_UP && self.port_state.is_none_or(|state| state == PORT_FORWARDING)
    }

    /// The hardware address as `aa:bb:…`.
    #[must_use]
    pub fn mac_text(&self) -> String {
        let mut text = String::with_capacity(17);
        for (i, byte) in self.mac.iter().enumerate() {
            use std::fmt::Write as _;
            if i > 0 {
                text.push(':');
            }
            // Writing to a String cannot fail.
            write!(text, "{byte:02x}").unwrap_or_default();
        }
        text
    }
}

/// The link named `name`.
#[must_use]
pub fn get(name: &str) -> Message {
    let mut message = Message::new(libc::RTM_GETLINK, 0, format!("find link {name}"));
    message
        .fixed(&header(0, 0, 0, 0))
        .text(IFLA_IFNAME, name)
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    message
}

/// The link with `index`.
#[must_use]
pub fn get_index(index: u32) -> Message {
    let mut message = Message::new(libc::RTM_GETLINK, 0, format!("find link number {index}"));
    message
        .fixed(&header(0, index, 0, 0))
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    message
}

/// Every link (a dump).
#[must_use]
pub fn list() -> Message {
    let mut message = Message::new(libc::RTM_GETLINK, 0, "list links");
    message
        .fixed(&header(0, 0, 0, 0))
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    message
}

/// Every link with its counters (a dump).
#[must_use]
pub fn list_counters() -> Message {
    let mut message = Message::new(libc::RTM_GETLINK, 0, "list links and their counters");
    message.fixed(&header(0, 0, 0, 0));
    message
}

/// What a link has carried (`struct rtnl_link_stats64`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Name of the link.
    pub name: String,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bad packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets received and dropped.
    pub rx_dropped: u64,
    /// Packets dropped before they were sent.
    pub tx_dropped: u64,
}

impl Counters {
    /// Reads an `RTM_NEWLINK`; none for one that carries no counters.
    #[must_use]
    pub fn parse(reply: &Reply) -> Option<Self> {
        let (_, attrs) = reply.body.split_at_checked(16)?;
        let stats = Attrs(attrs).find(IFLA_STATS64)?;
        let number = |index: usize| {
            let bytes = stats.get(index * 8..)?.first_chunk::<8>()?;
            Some(u64::from_ne_bytes(*bytes))
        };
        Some(Self {
            name: string(Attrs(attrs).find(IFLA_IFNAME)?),
            rx_packets: number(0)?,
            tx_packets: number(1)?,
            rx_bytes: number(2)?,
            tx_bytes: number(3)?,
            rx_errors: number(4)?,
            tx_errors: number(5)?,
            rx_dropped: number(6)?,
            tx_dropped: number(7)?,
        })
    }
}

/// A bridge to make. With its own address from birth it does not follow its ports' addresses.
#[derive(Debug, Clone, Copy)]
pub struct Bridge<'a> {
    /// Name.
    pub name: &'a str,
    /// MTU, 0 for the kernel's choice.
    pub mtu: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Whether VLANs are kept apart.
    pub vlan_filtering: bool,
}

/// Makes a bridge, down.
#[must_use]
pub fn add_bridge(bridge: &Bridge<'_>) -> Message {
    let mut message = Message::new(libc::RTM_NEWLINK, CREATE, format!("create bridge {}", bridge.name));
    message
        .fixed(&header(0, 0, 0, 0))
        .text(IFLA_IFNAME, bridge.name)
        .attr(IFLA_ADDRESS, &bridge.mac);
    if bridge.mtu > 0 {
        message.u32(IFLA_MTU, bridge.mtu);
    }
    message.nest(IFLA_LINKINFO, |m| {
        m.text(INFO_KIND, "bridge");
        if bridge.vlan_filtering {
            m.nest(INFO_DATA, |m| {
                m.attr(BR_VLAN_FILTERING, &[1]);
            });
        }
    });
    message
}

/// A veth pair to make: the near end here, the far end in another namespace.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// Name of the near end.
    pub name: &'a str,
    /// Name of the far end.
    pub peer: &'a str,
    /// Namespace of the far end; none for this one.
    pub netns: Option<BorrowedFd<'a>>,
    /// MTU of both, 0 for the kernel's choice.
    pub mtu: u32,
    /// Hardware address of the far end; none for a random one.
    pub peer_mac: Option<[u8; 6]>,
    /// Bridge the near end becomes a port of.
    pub master: Option<u32>,
}

/// Makes a veth pair, both ends down, of one queue each.
///
/// Down: an end that is up while the other is not makes the kernel take its queue out of use,
/// and wait an RCU grace period for it, as soon as somebody asks for the link (linkwatch).
/// One queue: without being told, the kernel makes one for each processor and then, with a
/// grace period for each end, uses only the first (veth_init_queues).
#[must_use]
pub fn add_veth(veth: &Veth<'_>) -> Message {
    let mut message = Message::new(
        libc::RTM_NEWLINK,
        CREATE,
        format!("create veth pair {} - {}", veth.name, veth.peer),
    );
    message.fixed(&header(0, 0, 0, 0)).text(IFLA_IFNAME, veth.name);
    message.u32(IFLA_NUM_TX_QUEUES, 1).u32(IFLA_NUM_RX_QUEUES, 1);
    if veth.mtu > 0 {
        message.u32(IFLA_MTU, veth.mtu);
    }
    if let Some(master) = veth.master {
        message.u32(IFLA_MASTER, master);
    }
    message.nest(IFLA_LINKINFO, |m| {
        m.text(INFO_KIND, "veth").nest(INFO_DATA, |m| {
            m.nest(VETH_INFO_PEER, |m| {
                m.fixed(&header(0, 0, 0, 0)).text(IFLA_IFNAME, veth.peer);
                m.u32(IFLA_NUM_TX_QUEUES, 1).u32(IFLA_NUM_RX_QUEUES, 1);
                if veth.mtu > 0 {
                    m.u32(IFLA_MTU, veth.mtu);
                }
                if let Some(mac) = veth.peer_mac {
                    m.attr(IFLA_ADDRESS, &mac);
                }
                if let Some(netns) = veth.netns {
                    m.attr(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
                }
            });
        });
    });
    message
}

/// Deletes the link named `name`.
#[must_use]
pub fn delete(name: &str) -> Message {
    let mut message = Message::new(libc::RTM_DELLINK, 0, format!("delete link {name}"));
    message.fixed(&header(0, 0, 0, 0)).text(IFLA_IFNAME, name);
    message
}

/// Deletes the link with `index`, which is called `name`.
pub(crate) fn delete_index(index: u32, name: &str) -> Message {
    let mut message = Message::new(libc::RTM_DELLINK, 0, format!("delete link {name}"));
    message.fixed(&header(0, index, 0, 0));
    message
}

/// The link that a message of the kernel says is gone.
pub(crate) fn gone(kind: u16, body: &[u8]) -> Option<u32> {
    let index = body.get(4..8).filter(|_| kind == libc::RTM_DELLINK)?;
    Some(ne32(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Socket;

    #[test]
    fn the_loopback_link_is_read() {
        let mut socket = Socket::route().unwrap();
        let replies = socket.one(get("lo")).unwrap();
        let lo = Link::parse(&replies[0]).unwrap();
        assert_eq!((lo.name.as_str(), lo.index), ("lo", 1));
        assert_eq!(lo.mac_text(), "00:00:00:00:00:00");
        let all = socket.dump(&list(), "links").unwrap();
        assert!(all.iter().filter_map(Link::parse).any(|link| link == lo));
    }

    #[test]
    fn the_loopback_link_counts_what_it_carries() {
        let carried = || {
            let all = Socket::route().unwrap().dump(&list_counters(), "links").unwrap();
            let lo = all.iter().filter_map(Counters::parse).find(|link| link.name == "lo");
            lo.unwrap()
        };
        let before = carried();
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(&[0; 1000], receiver.local_addr().unwrap()).unwrap();
        receiver.recv(&mut [0; 2000]).unwrap();
        let after = carried();
        assert!(after.tx_bytes >= before.tx_bytes + 1000 && after.rx_bytes >= before.rx_bytes + 1000);
        assert!(after.tx_packets > before.tx_packets && after.rx_packets > before.rx_packets);
        assert_eq!(after.rx_errors, before.rx_errors);
    }
}
