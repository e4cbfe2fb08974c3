//! Forgetting tracked UDP flows: a flow that was sent to a pod keeps going there after the pod
//! is gone, or stays untranslated after a port mapping came, for as long as it has traffic.
//!
//! The kernel filters (`CTA_FILTER`, Linux 5.8), so nothing is listed. An older kernel answers
//! EINVAL to the incomplete tuple; it never takes the request for "forget everything".

use std::net::IpAddr;

use crate::error::Error;
use crate::message::Message;
use crate::socket::Socket;

const DELETE: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
const F_IP_SRC: u32 = 1 << 0;
const F_PROTO_NUM: u32 = 1 << 3;
const F_DST_PORT: u32 = 1 << 5;
const UDP: u8 = 17;

fn request(ipv4: bool, what: String) -> Message {
    let mut message = Message::new(DELETE, 0, what);
    message.fixed(&[
        if ipv4 {
            libc::AF_INET as u8
        } else {
            libc::AF_INET6 as u8
        },
        0,
        0,
        0,
    ]);
    message
}

fn run(socket: &mut Socket, message: Message) -> Result<(), Error> {
    match socket.one(message) {
        // Nothing was tracked.
        Err(error) if error.is_missing() => Ok(()),
        other => other.map(drop),
    }
}

/// Forgets every UDP flow that was sent to `port`.
///
/// # Errors
/// When the kernel refuses.
pub fn forget_udp_port(socket: &mut Socket, ipv4: bool, port: u16) -> Result<(), Error> {
    let mut message = request(ipv4, format!("forget UDP flows to port {port}"));
    message
        .nest(CTA_TUPLE_ORIG, |m| {
            m.nest(CTA_TUPLE_PROTO, |m| {
                m.attr(CTA_PROTO_NUM, &[UDP])
                    .attr(CTA_PROTO_DST_PORT, &port.to_be_bytes());
            });
        })
        .nest(CTA_FILTER, |m| {
            m.u32(FILTER_ORIG_FLAGS, F_PROTO_NUM | F_DST_PORT)
                .u32(FILTER_REPLY_FLAGS, 0);
        });
    run(socket, message)
}

/// Forgets every UDP flow that `ip` answers.
///
/// # Errors
/// When the kernel refuses.
pub fn forget_udp_of(socket: &mut Socket, ip: IpAddr) -> Result<(), Error> {
    let mut message = request(ip.is_ipv4(), format!("forget UDP flows to {ip}"));
    message
        .nest(CTA_TUPLE_REPLY, |m| {
            m.nest(CTA_TUPLE_IP, |m| {
                m.ip(if ip.is_ipv4() { CTA_IP_V4_SRC } else { CTA_IP_V6_SRC }, ip);
            })
            .nest(CTA_TUPLE_PROTO, |m| {
                m.attr(CTA_PROTO_NUM, &[UDP]);
            });
        })
        .nest(CTA_FILTER, |m| {
            m.u32(FILTER_ORIG_FLAGS, 0)
                .u32(FILTER_REPLY_FLAGS, F_IP_SRC | F_PROTO_NUM);
        });
    run(socket, message)
}
