//! Masquerading of a container's traffic that leaves its network, in the table of the reference
//! plugins (v1.9.1): `inet cni_plugins_masquerade`, one rule for each address in `masq_checks`,
//! found again by its comment. So either program removes what the other made.
//!
//! Comment: `<hash of network>-<hash of interface:container>, net: …, if: …, id: …`, where a
//! hash is the first 16 digits of SHA-512; what is searched for is the part before the comma.
//!
//! Speed: whoever closes a netfilter socket waits for what was deleted through any such socket to
//! be freed, an RCU grace period of several milliseconds (nft_rcv_nl_event). So ADD deletes
//! nothing where it can help it: the shared chains are made once, marked by a comment, and left
//! alone while the mark is there. DEL must delete; it keeps the socket open until its caller
//! has done what else takes time.
//!
//! Connection tracking stays on: where the last rule that wants it goes and the next one comes, the kernel looks through
//! its whole table of connections, twice (nf_ct_netns_do_get, 0.4 ms). So there is always one, where no packet comes.

use std::fmt::Write as _;

use cni_netlink::Socket;
use cni_netlink::nft::{self, Family, Hook, PRIORITY_SNAT, Transaction};
use cni_netlink::rule::{Rule, Side};
use ipnet::IpNet;
use sha2::{Digest as _, Sha512};

use crate::fault::{Fault, Result};

const TABLE: &str = "cni_plugins_masquerade";
const CHAIN: &str = "masq_checks";
const ENTRY: &str = "postrouting";
/// Marks the entry chain as ours and complete; the reference flushes and rewrites it.
const MARK: &str = "bulkhead 2";
/// How many rules it has then.
const ENTRY_RULES: usize = 4;
const TABLE_COMMENT: &str = "Masquerading for plugins from github.com/containernetworking/plugins";
const CHAIN_COMMENT: &str = "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet";

/// Whose rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) network: &'a str,
    pub(crate) ifname: &'a str,
    pub(crate) container: &'a str,
}

/// The first 16 digits of SHA-512.
pub(crate) fn hash(text: &str) -> String {
    let mut digits = String::with_capacity(16);
    for byte in Sha512::digest(text.as_bytes()).iter().take(8) {
        // Writing to a String cannot fail.
        write!(digits, "{byte:02x}").unwrap_or_default();
    }
    digits
}

impl Owner<'_> {
    fn prefix(&self) -> String {
        format!(
            "{}-{}",
            hash(self.network),
            hash(&format!("{}:{}", self.ifname, self.container))
        )
    }

    fn comment(&self) -> String {
        let mut text = format!(
            "{}, net: {}, if: {}, id: {}",
            self.prefix(),
            self.network,
            self.ifname,
            self.container
        );
        text.truncate(nft::COMMENT_MAX);
        text
    }
}

fn net(text: &str) -> Result<IpNet> {
    text.parse()
        .map_err(|_| Fault::internal(format!("{text} is no network")))
}

/// Table and chains, as the reference sets them up at every ADD.
fn frame(change: &mut Transaction<'_>) -> Result<()> {
    change.add_table(TABLE_COMMENT).add_chain(CHAIN, Some(CHAIN_COMMENT));
    change
        .add_nat_chain(ENTRY, Hook::Postrouting, PRIORITY_SNAT)
        .flush_chain(ENTRY);
    for multicast in ["224.0.0.0/4", "ff00::/8"] {
        let multicast = net(multicast)?;
        let mut rule = Rule::new();
        rule.same_family(multicast.addr())
            .address(Side::Destination, multicast, false)
            .back();
        change.add_rule(ENTRY, &rule, Some(MARK));
    }
    change.add_rule(ENTRY, Rule::new().goto(CHAIN), Some(MARK));
    // What goes there does not come back: this one only wants connections tracked.
    change.add_rule(ENTRY, Rule::new().masquerade(), Some(MARK));
    Ok(())
}

/// Masquerades what `addresses` send outside their own subnets.
pub(crate) fn add(owner: &Owner<'_>, addresses: &[IpNet]) -> Result<()> {
    let comment = owner.comment();
    let mut socket = Socket::netfilter()?;
    let mut framed = nft::is_marked(&mut socket, Family::Inet, TABLE, (ENTRY, ENTRY_RULES), MARK)?;
    loop {
        let mut change = Transaction::new(Family::Inet, TABLE);
        if !framed {
            frame(&mut change)?;
        }
        for address in addresses {
            let mut rule = Rule::new();
            rule.same_family(address.addr())
                .address(Side::Source, address.addr().into(), false)
                .address(Side::Destination, address.trunc(), true)
                .masquerade();
            change.add_rule(CHAIN, &rule, Some(&comment));
        }
        match change.commit(&mut socket) {
            // Somebody took the table away after we looked.
            Err(error) if framed && error.is_missing() => framed = false,
            other => return Ok(other?),
        }
    }
}

fn remove(which: impl Fn(&str) -> bool) -> Result<Socket> {
    let mut socket = Socket::netfilter()?;
    // Two of us may list the same rule; the second finds it gone and looks again.
    for _ in 0..5 {
        let mut change = Transaction::new(Family::Inet, TABLE);
        for rule in nft::list_rules(&mut socket, Family::Inet, TABLE, CHAIN)? {
            if rule.comment.as_deref().is_some_and(&which) {
                change.delete_rule(CHAIN, rule.handle);
            }
        }
        match change.commit(&mut socket) {
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(socket),
        }
    }
    Err(Fault::internal(
        "the masquerading rules kept changing while they were removed",
    ))
}

/// Removes the rules of `owner`; none is fine. Closing the socket waits for their memory.
pub(crate) fn del(owner: &Owner<'_>) -> Result<Socket> {
    let prefix = owner.prefix();
    remove(|comment| comment.starts_with(&prefix))
}

/// Removes the rules of `network` that belong to none of `valid` (container, interface).
pub(crate) fn gc(network: &str, valid: &[(String, String)]) -> Result<()> {
    let ours = hash(network) + "-";
    let keep: Vec<String> = valid
        .iter()
        .map(|(container, ifname)| {
            Owner {
                network,
                ifname,
                container,
            }
            .prefix()
        })
        .collect();
    remove(|comment| comment.starts_with(&ours) && !keep.iter().any(|prefix| comment.starts_with(prefix))).map(drop)
}

/// How many rules `owner` has.
pub(crate) fn count(owner: &Owner<'_>) -> Result<usize> {
    let prefix = owner.prefix();
    let rules = nft::list_rules(&mut Socket::netfilter()?, Family::Inet, TABLE, CHAIN)?;
    Ok(rules
        .iter()
        .filter(|rule| rule.comment.as_deref().is_some_and(|c| c.starts_with(&prefix)))
        .count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comment_is_the_reference_plugins() {
        // sha512("net") and sha512("eth0:abc"), first 16 digits, by another program.
        let owner = Owner {
            network: "net",
            ifname: "eth0",
            container: "abc",
        };
        assert_eq!(hash("abc"), "ddaf35a193617aba");
        assert_eq!(
            owner.comment(),
            format!("{}-{}, net: net, if: eth0, id: abc", hash("net"), hash("eth0:abc"))
        );
        let long = Owner {
            network: "net",
            ifname: "eth0",
            container: &"a".repeat(64),
        };
        assert!(long.comment().len() <= nft::COMMENT_MAX && long.comment().starts_with(&long.prefix()));
    }
}
