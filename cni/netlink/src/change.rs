//! Changes of one link: up or down, addresses of hardware, MTU, bridge, per-link settings of
//! IPv4 and IPv6, all in one request.
//!
//! Within one request the kernel brings the link up before it applies the settings of the
//! address families (do_setlink): what must hold from the start goes in a request before.

use crate::link::{IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_MASTER, IFLA_MTU, UP, header};
use crate::message::Message;

const PROMISC: u32 = libc::IFF_PROMISC as u32;
const INET_CONF: u16 = 1;
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
/// `IPV4_DEVCONF_ARP_NOTIFY`: announce the address when the link comes up.
pub const ARP_NOTIFY: u16 = 22;
/// `IPV4_DEVCONF_ROUTE_LOCALNET`: 127/8 may cross this link.
pub const ROUTE_LOCALNET: u16 = 26;

/// A change of one link.
#[derive(Debug, Clone, Default)]
pub struct Change {
    up: Option<bool>,
    promisc: bool,
    mac: Option<[u8; 6]>,
    mtu: Option<u32>,
    master: Option<u32>,
    ipv4: Vec<(u16, u32)>,
    no_link_local: bool,
}

impl Change {
    /// No change yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Brings it up or down.
    #[must_use]
    pub fn up(mut self, up: bool) -> Self {
        self.up = Some(up);
        self
    }

    /// Turns promiscuous mode on.
    #[must_use]
    pub fn promisc(mut self) -> Self {
        self.promisc = true;
        self
    }

    /// Sets the hardware address.
    #[must_use]
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Sets the MTU.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Makes it a port of a bridge (0: of none).
    #[must_use]
    pub fn master(mut self, index: u32) -> Self {
        self.master = Some(index);
        self
    }

    /// Sets an `IPV4_DEVCONF_*` value, as the sysctl of that name would.
    #[must_use]
    pub fn ipv4(mut self, key: u16, value: u32) -> Self {
        self.ipv4.push((key, value));
        self
    }

    /// Makes no IPv6 address by itself (`addr_gen_mode` none).
    #[must_use]
    pub fn no_link_local(mut self) -> Self {
        self.no_link_local = true;
        self
    }

    /// The request for the link with `index`. `RTM_NEWLINK` and not `RTM_SETLINK`, as `ip` does.
    #[must_use]
    pub fn request(&self, index: u32) -> Message {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, format!("change link number {index}"));
        let (mut flags, mut mask) = (0, 0);
        if let Some(up) = self.up {
            mask |= UP;
            flags |= if up { UP } else { 0 };
        }
        if self.promisc {
            mask |= PROMISC;
            flags |= PROMISC;
        }
        message.fixed(&header(0, index, flags, mask));
        if let Some(mac) = self.mac {
            message.attr(IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = self.mtu {
            message.u32(IFLA_MTU, mtu);
        }
        if let Some(master) = self.master {
            message.u32(IFLA_MASTER, master);
        }
        if !self.ipv4.is_empty() || self.no_link_local {
            message.nest(IFLA_AF_SPEC, |m| {
                if !self.ipv4.is_empty() {
                    m.nest(libc::AF_INET as u16, |m| {
                        m.nest(INET_CONF, |m| {
                            for (key, value) in &self.ipv4 {
                                m.u32(*key, *value);
                            }
                        });
                    });
                }
                if self.no_link_local {
                    m.nest(libc::AF_INET6 as u16, |m| {
                        m.attr(INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
                    });
                }
            });
        }
        message
    }
}
