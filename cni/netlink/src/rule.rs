//! The expressions of an nftables rule, as `nft` itself would compile them, so that `nft list`
//! shows what was meant: load into a register, compare, act.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::message::Message;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DADDR: u32 = 2;
const RTN_LOCAL: u32 = 2;
const NAT_DNAT: u32 = 1;
const CT_STATUS: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;
const VERDICT_ACCEPT: i32 = 1;
const VERDICT_DROP: i32 = 0;
const VERDICT_JUMP: i32 = -3;
const VERDICT_GOTO: i32 = -4;
const VERDICT_RETURN: i32 = -5;

/// Which address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Source.
    Source,
    /// Destination.
    Destination,
}

/// Which link of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The link it came by.
    In,
    /// The link it leaves by.
    Out,
}

/// A rule under construction; conditions first, the action last.
#[derive(Debug, Clone)]
pub struct Rule {
    list: Message,
}

impl Default for Rule {
    fn default() -> Self {
        Self::new()
    }
}

impl Rule {
    /// A rule without conditions.
    #[must_use]
    pub fn new() -> Self {
        let mut list = Message::new(0, 0, "");
        list.buf.clear();
        Self { list }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.list.buf
    }

    fn expr(&mut self, name: &str, fill: impl FnOnce(&mut Message)) -> &mut Self {
        self.list.nest(LIST_ELEM, |m| {
            m.text(EXPR_NAME, name).nest(EXPR_DATA, fill);
        });
        self
    }

    fn meta(&mut self, key: u32) -> &mut Self {
        self.expr("meta", |m| {
            m.be32(2, key).be32(1, REG_1);
        })
    }

    fn compare(&mut self, op: u32, value: &[u8]) -> &mut Self {
        self.expr("cmp", |m| {
            m.be32(1, REG_1).be32(2, op).nest(3, |m| {
                m.attr(DATA_VALUE, value);
            });
        })
    }

    fn payload(&mut self, base: u32, offset: u32, len: u32) -> &mut Self {
        self.expr("payload", |m| {
            m.be32(1, REG_1).be32(2, base).be32(3, offset).be32(4, len);
        })
    }

    fn immediate(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.expr("immediate", |m| {
            m.be32(1, register).nest(2, |m| {
                m.attr(DATA_VALUE, value);
            });
        })
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) -> &mut Self {
        self.expr("immediate", |m| {
            m.be32(1, REG_VERDICT).nest(2, |m| {
                m.nest(DATA_VERDICT, |m| {
                    m.attr(VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        m.text(VERDICT_CHAIN, chain);
                    }
                });
            });
        })
    }

    /// In a table of both families: the packet is of the family of `ip`.
    pub fn same_family(&mut self, ip: IpAddr) -> &mut Self {
        self.meta(META_NFPROTO)
            .compare(CMP_EQ, &[if ip.is_ipv4() { 2 } else { 10 }])
    }

    /// The address on `side` is in `net`, or with `not` it is outside.
    pub fn address(&mut self, side: Side, net: IpNet, not: bool) -> &mut Self {
        let op = if not { CMP_NEQ } else { CMP_EQ };
        let bytes = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let (offset, len) = match (net.addr().is_ipv4(), side) {
            (true, Side::Source) => (12, 4),
            (true, Side::Destination) => (16, 4),
            (false, Side::Source) => (8, 16),
            (false, Side::Destination) => (24, 16),
        };
        self.payload(BASE_NETWORK, offset, len);
        if net.prefix_len() == net.max_prefix_len() {
            return self.compare(op, &bytes(net.addr()));
        }
        self.mask(&bytes(net.netmask())).compare(op, &bytes(net.network()))
    }

    /// The link is named `name` (a trailing `*` stands for any end), or with `not` it is not.
    pub fn link(&mut self, way: Way, name: &str, not: bool) -> &mut Self {
        self.meta(if way == Way::In { META_IIFNAME } else { META_OIFNAME });
        let value = if let Some(prefix) = name.strip_suffix('*') {
            prefix.as_bytes().to_vec()
        } else {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(libc::IFNAMSIZ, 0);
            bytes
        };
        self.compare(if not { CMP_NEQ } else { CMP_EQ }, &value)
    }

    /// The transport protocol is `protocol` and its destination port `port`.
    pub fn port(&mut self, protocol: u8, port: u16) -> &mut Self {
        self.meta(META_L4PROTO).compare(CMP_EQ, &[protocol]);
        self.payload(BASE_TRANSPORT, 2, 2).compare(CMP_EQ, &port.to_be_bytes())
    }

    /// The destination is an address of this host (`fib daddr type local`).
    pub fn to_this_host(&mut self) -> &mut Self {
        self.expr("fib", |m| {
            m.be32(1, REG_1).be32(2, FIB_RESULT_ADDRTYPE).be32(3, FIB_DADDR);
        })
        .compare(CMP_EQ, &RTN_LOCAL.to_ne_bytes())
    }

    /// The flow's destination was translated (`ct status dnat`).
    pub fn translated(&mut self) -> &mut Self {
        self.expr("ct", |m| {
            m.be32(1, REG_1).be32(2, CT_STATUS);
        })
        .mask(&IPS_DST_NAT.to_ne_bytes())
        .compare(CMP_NEQ, &[0; 4])
    }

    fn mask(&mut self, mask: &[u8]) -> &mut Self {
        let len = mask.len() as u32;
        self.expr("bitwise", |m| {
            m.be32(1, REG_1)
                .be32(2, REG_1)
                .be32(3, len)
                .nest(4, |m| {
                    m.attr(DATA_VALUE, mask);
                })
                .nest(5, |m| {
                    m.attr(DATA_VALUE, &vec![0; mask.len()]);
                });
        })
    }

    /// Sends the packet on to `ip`, `port`.
    pub fn dnat(&mut self, ip: IpAddr, port: u16) -> &mut Self {
        let family: u32 = match ip {
            IpAddr::V4(v4) => {
                self.immediate(REG_1, &v4.octets());
                2
            }
            IpAddr::V6(v6) => {
                self.immediate(REG_1, &v6.octets());
                10
            }
        };
        self.immediate(REG_2, &port.to_be_bytes()).expr("nat", |m| {
            m.be32(1, NAT_DNAT).be32(2, family).be32(3, REG_1).be32(5, REG_2);
        })
    }

    /// Gives the packet the address of the link it leaves by.
    pub fn masquerade(&mut self) -> &mut Self {
        self.expr("masq", |_| {})
    }

    /// Leaves the chain.
    pub fn back(&mut self) -> &mut Self {
        self.verdict(VERDICT_RETURN, None)
    }

    /// Accepts the packet.
    pub fn accept(&mut self) -> &mut Self {
        self.verdict(VERDICT_ACCEPT, None)
    }

    /// Drops the packet.
    pub fn drop(&mut self) -> &mut Self {
        self.verdict(VERDICT_DROP, None)
    }

    /// Goes through `chain`, then on.
    pub fn jump(&mut self, chain: &str) -> &mut Self {
        self.verdict(VERDICT_JUMP, Some(chain))
    }

    /// Goes to `chain` and does not come back.
    pub fn goto(&mut self, chain: &str) -> &mut Self {
        self.verdict(VERDICT_GOTO, Some(chain))
    }
}
