//! Routes added to and read from the routing tables of one network namespace (rtnetlink(7), RTM_NEWROUTE).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::message::{Attrs, Message, address, ne32};
use crate::socket::Reply;

/// Not exclusive: two routes to one destination share the traffic.
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RT_TABLE_MAIN: u32 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;

/// A route to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Link it leaves by.
    pub index: u32,
    /// Metric.
    pub priority: Option<u32>,
    /// Table; none for main.
    pub table: Option<u32>,
    /// Scope; none for what the gateway implies.
    pub scope: Option<u8>,
    /// Path MTU.
    pub mtu: Option<u32>,
    /// Segment size to advertise.
    pub advmss: Option<u32>,
}

impl Route {
    /// A route by `gateway` and nothing special.
    #[must_use]
    pub fn new(dst: IpNet, gateway: Option<IpAddr>, index: u32) -> Self {
        Self {
            dst,
            gateway,
            index,
            priority: None,
            table: None,
            scope: None,
            mtu: None,
            advmss: None,
        }
    }

    fn family(&self) -> u8 {
        if self.dst.addr().is_ipv4() {
            libc::AF_INET as u8
        } else {
            libc::AF_INET6 as u8
        }
    }

    /// The request to add it.
    #[must_use]
    pub fn add(&self) -> Message {
        let via = self.gateway.map(|gw| format!(" via {gw}")).unwrap_or_default();
        let what = format!("add route {}{via} on link number {}", self.dst, self.index);
        let mut message = Message::new(libc::RTM_NEWROUTE, CREATE, what);
        let scope = self.scope.unwrap_or(if self.gateway.is_some() {
            SCOPE_UNIVERSE
        } else {
            SCOPE_LINK
        });
        let table = self.table.unwrap_or(RT_TABLE_MAIN);
        let mut head = [0u8; 12];
        head[0] = self.family();
        head[1] = self.dst.prefix_len();
        // A table above 255 is named by its attribute alone.
        head[4] = u8::try_from(table).unwrap_or(0);
        head[5] = RTPROT_BOOT;
        head[6] = scope;
        head[7] = RTN_UNICAST;
        message
            .fixed(&head)
            .ip(RTA_DST, self.dst.network())
            .u32(RTA_OIF, self.index)
            .u32(RTA_TABLE, table);
        if let Some(gateway) = self.gateway {
            message.ip(RTA_GATEWAY, gateway);
        }
        if let Some(priority) = self.priority {
            message.u32(RTA_PRIORITY, priority);
        }
        if self.mtu.is_some() || self.advmss.is_some() {
            message.nest(RTA_METRICS, |m| {
                if let Some(mtu) = self.mtu {
                    m.u32(RTAX_MTU, mtu);
                }
                if let Some(advmss) = self.advmss {
                    m.u32(RTAX_ADVMSS, advmss);
                }
            });
        }
        message
    }

    /// Reads an `RTM_NEWROUTE` of the unicast kind.
    #[must_use]
    pub fn parse(reply: &Reply) -> Option<Self> {
        let (head, attrs) = reply.body.split_at_checked(12)?;
        if head[7] != RTN_UNICAST {
            return None;
        }
        let attrs = Attrs(attrs);
        let zero: IpAddr = if i32::from(head[0]) == libc::AF_INET {
            [0u8; 4].into()
        } else {
            [0u8; 16].into()
        };
        let dst = attrs.find(RTA_DST).and_then(address).unwrap_or(zero);
        Some(Self {
            dst: IpNet::new(dst, head[1]).ok()?,
            gateway: attrs.find(RTA_GATEWAY).and_then(address),
            index: attrs.find(RTA_OIF).map_or(0, ne32),
            priority: attrs.find(RTA_PRIORITY).map(ne32),
            table: Some(attrs.find(RTA_TABLE).map_or(u32::from(head[4]), ne32)),
            scope: Some(head[6]),
            mtu: None,
            advmss: None,
        })
    }
}

/// The route that a packet to `ip` would take.
#[must_use]
pub fn lookup(ip: IpAddr) -> Message {
    let mut message = Message::new(libc::RTM_GETROUTE, 0, format!("find the route to {ip}"));
    let mut head = [0u8; 12];
    (head[0], head[1]) = match ip {
        IpAddr::V4(_) => (libc::AF_INET as u8, 32),
        IpAddr::V6(_) => (libc::AF_INET6 as u8, 128),
    };
    message.fixed(&head).ip(RTA_DST, ip);
    message
}

/// Every route (a dump).
#[must_use]
pub fn list() -> Message {
    let mut message = Message::new(libc::RTM_GETROUTE, 0, "list routes");
    message.fixed(&[0; 12]);
    message
}
