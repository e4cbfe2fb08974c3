//! Forgetting tracked UDP flows: a flow that was sent to a pod keeps going there after the pod
//! is gone, or stays untranslated after a port mapping came, for as long as it has traffic.
//!
//! The kernel filters (`CTA_FILTER`): when it lists since Linux 5.8, when it deletes since 6.8. Before that it answers EINVAL to
//! a deletion by an incomplete tuple, and never takes it for "forget everything"; then the flows are listed, filtered by
//! the kernel and looked at once more here, and each is deleted by its whole tuple.

use std::net::IpAddr;

use crate::error::Error;
use crate::message::{Attrs, Message, NESTED, address};
use crate::socket::Socket;

const DELETE: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 2;
const GET: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 1;
/// Length of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
const F_IP_SRC: u32 = 1 << 0;
const F_PROTO_NUM: u32 = 1 << 3;
const F_DST_PORT: u32 = 1 << 5;
const UDP: u8 = 17;

/// Which UDP flows are meant.
enum Flows {
    /// Those that were sent to this port.
    ToPort(u16),
    /// Those that this address answers.
    AnsweredBy(IpAddr),
}

impl Flows {
    /// Writes the incomplete tuple, and which parts of it count.
    fn ask(&self, message: &mut Message) {
        match *self {
            Self::ToPort(port) => message
                .nest(CTA_TUPLE_ORIG, |m| {
                    m.nest(CTA_TUPLE_PROTO, |m| {
                        m.attr(CTA_PROTO_NUM, &[UDP])
                            .attr(CTA_PROTO_DST_PORT, &port.to_be_bytes());
                    });
                })
                .nest(CTA_FILTER, |m| {
                    m.u32(FILTER_ORIG_FLAGS, F_PROTO_NUM | F_DST_PORT)
                        .u32(FILTER_REPLY_FLAGS, 0);
                }),
            Self::AnsweredBy(ip) => message
                .nest(CTA_TUPLE_REPLY, |m| {
                    m.nest(CTA_TUPLE_IP, |m| {
                        m.ip(source(ip), ip);
                    })
                    .nest(CTA_TUPLE_PROTO, |m| {
                        m.attr(CTA_PROTO_NUM, &[UDP]);
                    });
                })
                .nest(CTA_FILTER, |m| {
                    m.u32(FILTER_ORIG_FLAGS, 0)
                        .u32(FILTER_REPLY_FLAGS, F_IP_SRC | F_PROTO_NUM);
                }),
        };
    }

    /// Whether a listed flow is one of them.
    fn has(&self, flow: Attrs<'_>) -> bool {
        let part = |tuple: u16, inner: u16, value: u16| {
            let tuple = Attrs(flow.find(tuple)?);
            Attrs(tuple.find(inner)?).find(value)
        };
        let is_udp = part(CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_NUM) == Some(&[UDP]);
        is_udp
            && match *self {
                Self::ToPort(port) => {
                    part(CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) == Some(&port.to_be_bytes())
                }
                Self::AnsweredBy(ip) => part(CTA_TUPLE_REPLY, CTA_TUPLE_IP, source(ip)).and_then(address) == Some(ip),
            }
    }
}

fn source(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { CTA_IP_V4_SRC } else { CTA_IP_V6_SRC }
}

fn request(kind: u16, ipv4: bool, what: &str) -> Message {
    let family = if ipv4 {
        libc::AF_INET as u8
    } else {
        libc::AF_INET6 as u8
    };
    let mut message = Message::new(kind, 0, what);
    message.fixed(&[family, 0, 0, 0]);
    message
}

/// Deletes; where nothing was tracked there is nothing to delete.
fn delete(socket: &mut Socket, message: Message) -> Result<(), Error> {
    match socket.one(message) {
        Err(error) if error.is_missing() => Ok(()),
        other => other.map(drop),
    }
}

fn forget(socket: &mut Socket, ipv4: bool, flows: &Flows, what: &str) -> Result<(), Error> {
    let mut message = request(DELETE, ipv4, what);
    flows.ask(&mut message);
    match delete(socket, message) {
        Err(error) if error.errno() == Some(libc::EINVAL) => forget_each(socket, ipv4, flows, what),
        other => other,
    }
}

/// The same on a kernel that does not filter when it deletes.
fn forget_each(socket: &mut Socket, ipv4: bool, flows: &Flows, what: &str) -> Result<(), Error> {
    let mut list = request(GET, ipv4, what);
    flows.ask(&mut list);
    for reply in socket.dump(&list, "tracked flows")? {
        let flow = Attrs(reply.body.get(FAMILY_HEADER..).unwrap_or_default());
        if let Some(message) = one(flow, ipv4, flows, what) {
            delete(socket, message)?;
        }
    }
    Ok(())
}

/// The deletion of one listed flow, if it is one of `flows`. Its id keeps a later flow with the same tuple safe.
fn one(flow: Attrs<'_>, ipv4: bool, flows: &Flows, what: &str) -> Option<Message> {
    let tuple = flow.find(CTA_TUPLE_ORIG).filter(|_| flows.has(flow))?;
    let mut message = request(DELETE, ipv4, what);
    message.attr(CTA_TUPLE_ORIG | NESTED, tuple);
    for kind in [CTA_ZONE, CTA_ID] {
        if let Some(value) = flow.find(kind) {
            message.attr(kind, value);
        }
    }
    Some(message)
}

/// Forgets every UDP flow that was sent to `port`.
///
/// # Errors
/// When the kernel refuses.
pub fn forget_udp_port(socket: &mut Socket, ipv4: bool, port: u16) -> Result<(), Error> {
    let what = format!("forget UDP flows to port {port}");
    forget(socket, ipv4, &Flows::ToPort(port), &what)
}

/// Forgets every UDP flow that `ip` answers.
///
/// # Errors
/// When the kernel refuses.
pub fn forget_udp_of(socket: &mut Socket, ip: IpAddr) -> Result<(), Error> {
    let what = format!("forget UDP flows to {ip}");
    forget(socket, ip.is_ipv4(), &Flows::AnsweredBy(ip), &what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::HEADER;

    /// A flow as the kernel lists it: from 10.0.0.9 to 192.0.2.1:8053, which 10.88.0.5 answers.
    fn listed(protocol: u8) -> Message {
        let mut flow = Message::new(GET, 0, "test");
        let tuple = |m: &mut Message, from: [u8; 4], to: [u8; 4], port: u16| {
            m.nest(CTA_TUPLE_IP, |m| {
                m.attr(CTA_IP_V4_SRC, &from).attr(2, &to);
            })
            .nest(CTA_TUPLE_PROTO, |m| {
                m.attr(CTA_PROTO_NUM, &[protocol])
                    .attr(2, &[0x80, 0])
                    .attr(CTA_PROTO_DST_PORT, &port.to_be_bytes());
            });
        };
        flow.nest(CTA_TUPLE_ORIG, |m| tuple(m, [10, 0, 0, 9], [192, 0, 2, 1], 8053))
            .nest(CTA_TUPLE_REPLY, |m| tuple(m, [10, 88, 0, 5], [10, 0, 0, 9], 32768))
            .be32(CTA_ID, 7);
        flow
    }

    #[test]
    fn only_what_was_meant_is_deleted_each_flow_by_its_whole_tuple() {
        let is_deleted = |protocol: u8, flows: &Flows| {
            let flow = listed(protocol);
            one(Attrs(&flow.buf[HEADER..]), true, flows, "test").is_some()
        };
        let answered = |ip: [u8; 4]| Flows::AnsweredBy(IpAddr::from(ip));
        assert!(is_deleted(UDP, &Flows::ToPort(8053)) && is_deleted(UDP, &answered([10, 88, 0, 5])));
        assert!(!is_deleted(UDP, &Flows::ToPort(53)) && !is_deleted(UDP, &answered([10, 88, 0, 6])));
        assert!(!is_deleted(6, &Flows::ToPort(8053)) && !is_deleted(6, &answered([10, 88, 0, 5])));
        let flow = listed(UDP);
        let attrs = Attrs(&flow.buf[HEADER..]);
        let message = one(attrs, true, &Flows::ToPort(8053), "test").unwrap();
        let sent = Attrs(&message.buf[HEADER + FAMILY_HEADER..]);
        assert_eq!(sent.find(CTA_TUPLE_ORIG), attrs.find(CTA_TUPLE_ORIG));
        assert_eq!(sent.find(CTA_ID), Some(&[0, 0, 0, 7][..]));
    }
}
