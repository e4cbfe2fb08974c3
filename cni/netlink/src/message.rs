//! Netlink messages: a header, a fixed part that depends on the family, attributes (type,
//! length, value, padded to four bytes, nested freely). Built in one buffer, read in place.

use std::net::IpAddr;

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Attribute flag: the value holds attributes (`NLA_F_NESTED`).
pub(crate) const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = 0x3fff;

/// One request under construction.
#[derive(Debug, Clone)]
pub struct Message {
    pub(crate) buf: Vec<u8>,
    pub(crate) what: String,
}

impl Message {
    /// A request of `kind` with `flags` beside `NLM_F_REQUEST`; `what` names it in errors.
    #[must_use]
    pub fn new(kind: u16, flags: u16, what: impl Into<String>) -> Self {
        let mut buf = Vec::with_capacity(256);
        buf.extend_from_slice(&0u32.to_ne_bytes());
        buf.extend_from_slice(&kind.to_ne_bytes());
        buf.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        buf.extend_from_slice(&[0; 8]);
        Self { buf, what: what.into() }
    }

    /// Appends the fixed part.
    pub fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(bytes);
        self.pad()
    }

    fn pad(&mut self) -> &mut Self {
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
        self
    }

    /// Appends one attribute.
    pub fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.pad()
    }

    /// Appends a NUL-terminated string.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends a number in host order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a number in network order, as netfilter wants them.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends an address.
    pub fn ip(&mut self, kind: u16, value: IpAddr) -> &mut Self {
        match value {
            IpAddr::V4(v4) => self.attr(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attr(kind, &v6.octets()),
        }
    }

    /// Appends an attribute whose value `fill` writes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.buf.len();
        self.buf.extend_from_slice(&0u16.to_ne_bytes());
        self.buf.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let len = (self.buf.len() - start) as u16;
        self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// Writes length, sequence number and extra flags into the header.
    pub(crate) fn seal(&mut self, seq: u32, extra_flags: u16) -> &[u8] {
        let len = self.buf.len() as u32;
        self.buf[0..4].copy_from_slice(&len.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.buf[6], self.buf[7]]) | extra_flags;
        self.buf[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.buf[8..12].copy_from_slice(&seq.to_ne_bytes());
        &self.buf
    }
}

/// The attributes in a piece of a reply.
#[derive(Debug, Clone, Copy)]
pub struct Attrs<'a>(pub &'a [u8]);

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, _) = self.0.split_at_checked(4)?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attrs<'a> {
    /// The first attribute of `kind`.
    #[must_use]
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut attrs = self;
        attrs.find_map(|(k, value)| (k == kind).then_some(value))
    }
}

/// A number in host order; a value that is too short is zero.
pub(crate) fn ne32(value: &[u8]) -> u32 {
    value.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// A string up to its NUL.
pub(crate) fn string(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// An address by the length of its bytes.
pub(crate) fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.first_chunk::<4>().map(|b| IpAddr::from(*b)),
        16 => value.first_chunk::<16>().map(|b| IpAddr::from(*b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new(1, 0, "test");
        message.text(3, "eth0").nest(18, |m| {
            m.text(1, "veth").u32(2, 7);
        });
        message.u32(4, 1500);
        let attrs = Attrs(&message.buf[HEADER..]);
        assert_eq!(attrs.find(3).map(string).as_deref(), Some("eth0"));
        assert_eq!(attrs.find(4).map(ne32), Some(1500));
        let nested = Attrs(attrs.find(18).unwrap());
        assert_eq!(nested.find(1).map(string).as_deref(), Some("veth"));
        assert_eq!(nested.find(2).map(ne32), Some(7));
        assert_eq!(nested.find(9), None);
    }

    #[test]
    fn truncated_attributes_end_the_walk() {
        for bytes in [
            &[1u8, 2][..],
            &[8, 0, 1, 0, 9][..],
            &[0, 0, 0, 0][..],
            &[3, 0, 1, 0, 5, 5, 5, 5][..],
        ] {
            assert_eq!(Attrs(bytes).count(), 0, "{bytes:?}");
        }
    }
}
