//! nftables: a [`Transaction`] on one table, and the list of a chain's rules.
//!
//! Names, comments and handles are what other programs find our rules by (`nft`, the reference
//! CNI plugins), so comments are stored as `nft` stores them: user data of type 0, a length
//! byte, a NUL-terminated string.

use crate::error::Error;
use crate::message::{Attrs, Message, string};
use crate::rule::Rule;
use crate::socket::Socket;

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const DELRULE: u16 = SUBSYSTEM | 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const CHAIN_USERDATA: u16 = 12;
const HOOK_NUM: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;

/// Longest comment that `nft` accepts.
pub const COMMENT_MAX: usize = 128;

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Frames on bridges.
    Bridge,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
            Self::Bridge => 7,
        }
    }
}

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// For packets of this host.
    Output,
    /// After routing.
    Postrouting,
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// Priority `dstnat`.
pub const PRIORITY_DNAT: i32 = -100;
/// Priority `raw`: before connections are tracked.
pub const PRIORITY_RAW: i32 = -300;
/// Priority `srcnat`.
pub const PRIORITY_SNAT: i32 = 100;

fn nfgen(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

fn comment(text: &str) -> Vec<u8> {
    let mut end = text.len().min(COMMENT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = vec![0, (end + 1) as u8];
    bytes.extend_from_slice(&text.as_bytes()[..end]);
    bytes.push(0);
    bytes
}

/// Changes of one table that happen together or not at all.
#[derive(Debug)]
pub struct Transaction<'a> {
    family: Family,
    table: &'a str,
    requests: Vec<Message>,
}

impl<'a> Transaction<'a> {
    /// An empty transaction on `table`.
    #[must_use]
    pub fn new(family: Family, table: &'a str) -> Self {
        Self {
            family,
            table,
            requests: Vec::new(),
        }
    }

    /// Whether nothing would happen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    fn request(&mut self, kind: u16, flags: u16, what: String) -> &mut Message {
        let mut message = Message::new(kind, flags, what);
        message.fixed(&nfgen(self.family.number()));
        let at = self.requests.len();
        self.requests.push(message);
        &mut self.requests[at]
    }

    /// Makes the table where it is missing.
    pub fn add_table(&mut self, text: &str) -> &mut Self {
        let table = self.table;
        let message = self.request(NEWTABLE, CREATE, format!("create nftables table {table}"));
        message.text(TABLE_NAME, table).attr(TABLE_USERDATA, &comment(text));
        self
    }

    /// Deletes the table with all that is in it.
    pub fn delete_table(&mut self) -> &mut Self {
        let table = self.table;
        let message = self.request(DELTABLE, 0, format!("delete nftables table {table}"));
        message.text(TABLE_NAME, table);
        self
    }

    /// Makes a chain where it is missing.
    pub fn add_chain(&mut self, chain: &str, text: Option<&str>) -> &mut Self {
        let table = self.table;
        let message = self.request(NEWCHAIN, CREATE, format!("create nftables chain {table} {chain}"));
        message.text(CHAIN_TABLE, table).text(CHAIN_NAME, chain);
        if let Some(text) = text {
            message.attr(CHAIN_USERDATA, &comment(text));
        }
        self
    }

    /// Makes a NAT chain that the kernel enters at `hook`.
    pub fn add_nat_chain(&mut self, chain: &str, hook: Hook, priority: i32) -> &mut Self {
        self.add_base_chain(chain, "nat", hook, priority)
    }

    /// Makes a filtering chain that the kernel enters at `hook`.
    pub fn add_filter_chain(&mut self, chain: &str, hook: Hook, priority: i32) -> &mut Self {
        self.add_base_chain(chain, "filter", hook, priority)
    }

    fn add_base_chain(&mut self, chain: &str, kind: &str, hook: Hook, priority: i32) -> &mut Self {
        let table = self.table;
        let message = self.request(NEWCHAIN, CREATE, format!("create nftables chain {table} {chain}"));
        message
            .text(CHAIN_TABLE, table)
            .text(CHAIN_NAME, chain)
            .nest(CHAIN_HOOK, |m| {
                m.be32(HOOK_NUM, hook.number())
                    .attr(HOOK_PRIORITY, &priority.to_be_bytes());
            })
            .text(CHAIN_TYPE, kind);
        self
    }

    /// Deletes every rule of a chain.
    pub fn flush_chain(&mut self, chain: &str) -> &mut Self {
        let table = self.table;
        let message = self.request(DELRULE, 0, format!("flush nftables chain {table} {chain}"));
        message.text(RULE_TABLE, table).text(RULE_CHAIN, chain);
        self
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, chain: &str, rule: &Rule, text: Option<&str>) -> &mut Self {
        let table = self.table;
        let message = self.request(
            NEWRULE,
            CREATE | APPEND,
            format!("add a rule to nftables chain {table} {chain}"),
        );
        message
            .text(RULE_TABLE, table)
            .text(RULE_CHAIN, chain)
            .nest(RULE_EXPRESSIONS, |m| {
                m.buf.extend_from_slice(rule.bytes());
            });
        if let Some(text) = text {
            message.attr(RULE_USERDATA, &comment(text));
        }
        self
    }

    /// Deletes one rule.
    pub fn delete_rule(&mut self, chain: &str, handle: u64) -> &mut Self {
        let table = self.table;
        let message = self.request(
            DELRULE,
            0,
            format!("delete rule {handle} of nftables chain {table} {chain}"),
        );
        message
            .text(RULE_TABLE, table)
            .text(RULE_CHAIN, chain)
            .attr(RULE_HANDLE, &handle.to_be_bytes());
        self
    }

    /// Carries it out.
    ///
    /// # Errors
    /// The first request refused; then nothing has changed.
    pub fn commit(self, socket: &mut Socket) -> Result<(), Error> {
        if self.requests.is_empty() {
            return Ok(());
        }
        let frame = |kind| {
            let mut message = Message::new(kind, 0, format!("change nftables table {}", self.table));
            // res_id is the subsystem, in network order.
            message.fixed(&[0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8]);
            message
        };
        socket.transaction(frame(BATCH_BEGIN), self.requests, frame(BATCH_END))
    }
}

/// A rule as it is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Number that deletes it.
    pub handle: u64,
    /// Comment, where it has one.
    pub comment: Option<String>,
}

/// The rules of a chain, in order; none where table or chain is missing.
///
/// # Errors
/// When the kernel refuses to list.
pub fn list_rules(socket: &mut Socket, family: Family, table: &str, chain: &str) -> Result<Vec<Listed>, Error> {
    let mut message = Message::new(GETRULE, 0, format!("list nftables chain {table} {chain}"));
    message
        .fixed(&nfgen(family.number()))
        .text(RULE_TABLE, table)
        .text(RULE_CHAIN, chain);
    let replies = match socket.dump(&message, "nftables rules") {
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        other => other?,
    };
    let mut rules = Vec::with_capacity(replies.len());
    for reply in replies.iter().filter(|reply| reply.kind == NEWRULE) {
        let attrs = Attrs(reply.body.get(4..).unwrap_or_default());
        // An older kernel does not filter by chain.
        if attrs.find(RULE_CHAIN).map(string).as_deref() != Some(chain) {
            continue;
        }
        let Some(handle) = attrs.find(RULE_HANDLE).and_then(|value| value.first_chunk::<8>()) else {
            continue;
        };
        let comment = attrs.find(RULE_USERDATA).and_then(read_comment);
        rules.push(Listed {
            handle: u64::from_be_bytes(*handle),
            comment,
        });
    }
    Ok(rules)
}

/// Whether `chain` has exactly so many rules and each of them the comment `mark`.
///
/// # Errors
/// When the kernel refuses to list.
pub fn is_marked(
    socket: &mut Socket,
    family: Family,
    table: &str,
    (chain, rules): (&str, usize),
    mark: &str,
) -> Result<bool, Error> {
    let list = list_rules(socket, family, table, chain)?;
    Ok(list.len() == rules && list.iter().all(|rule| rule.comment.as_deref() == Some(mark)))
}

fn read_comment(mut data: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = data {
        let value = rest.get(..usize::from(*len))?;
        if *kind == 0 {
            return Some(string(value));
        }
        data = &rest[usize::from(*len)..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_stored_as_nft_does() {
        assert_eq!(comment("abc"), [0, 4, b'a', b'b', b'c', 0]);
        assert_eq!(read_comment(&comment("abc")).as_deref(), Some("abc"));
        assert_eq!(read_comment(&[5, 1, 9, 0, 2, b'x', 0]).as_deref(), Some("x"));
        assert_eq!(read_comment(&[0, 200, 1]), None);
        let long = "ä".repeat(100);
        assert_eq!(read_comment(&comment(&long)).map(|c| c.len()), Some(COMMENT_MAX));
    }
}
