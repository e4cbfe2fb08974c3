//! `conditionsV4` and `conditionsV6`: nftables conditions that every mapped packet must meet.
//! The words of `ip[6] saddr|daddr`, `iifname` and `oifname` are understood, each with `==` or
//! `!=`; anything else is an error that says so, never a condition silently dropped.

use cni_netlink::rule::{Rule, Side, Way};
use cni_types::Code;
use ipnet::IpNet;

use crate::fault::{Fault, Result};

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Address { side: Side, net: IpNet, not: bool },
    Link { way: Way, name: String, not: bool },
}

impl Condition {
    pub(super) fn parse_all(key: &str, list: Option<&[String]>, ipv4: bool) -> Result<Vec<Self>> {
        let text = list.unwrap_or_default().join(" ");
        let mut words = text.split_whitespace().peekable();
        let mut conditions = Vec::new();
        let bad = |what: &str| {
            let text = format!("{key}: {what} in {text:?}: understood are ip saddr, ip daddr, iifname and oifname");
            Fault::new(Code::UnsupportedField, text)
        };
        while let Some(word) = words.next() {
            let subject = match word {
                "ip" | "ip6" if (word == "ip") != ipv4 => return Err(bad("a condition of the other family")),
                "ip" | "ip6" => words.next().ok_or_else(|| bad("nothing after ip"))?,
                other => other,
            };
            let not = words.peek() == Some(&"!=");
            if not || words.peek() == Some(&"==") {
                words.next();
            }
            let value = words.next().ok_or_else(|| bad(&format!("nothing after {subject}")))?;
            let is_ip = matches!(word, "ip" | "ip6");
            conditions.push(match subject {
                "saddr" | "daddr" if is_ip => {
                    let side = if subject == "saddr" {
                        Side::Source
                    } else {
                        Side::Destination
                    };
                    let net = value
                        .parse::<IpNet>()
                        .or_else(|_| value.parse::<std::net::IpAddr>().map(IpNet::from));
                    let net = net.ok().filter(|net| net.addr().is_ipv4() == ipv4);
                    Self::Address {
                        side,
                        net: net.ok_or_else(|| bad(&format!("address {value}")))?,
                        not,
                    }
                }
                "iifname" | "oifname" if !is_ip => {
                    let way = if subject == "iifname" { Way::In } else { Way::Out };
                    let name = value.trim_matches('"').to_owned();
                    if name.is_empty() || name.len() > 15 {
                        return Err(bad(&format!("interface {value}")));
                    }
                    Self::Link { way, name, not }
                }
                other => return Err(bad(&format!("{other:?}"))),
            });
        }
        Ok(conditions)
    }

    pub(super) fn apply(&self, rule: &mut Rule) {
        match self {
            Self::Address { side, net, not } => rule.address(*side, *net, *not),
            Self::Link { way, name, not } => rule.link(*way, name, *not),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[&str], ipv4: bool) -> Result<Vec<Condition>> {
        let list: Vec<String> = text.iter().map(ToString::to_string).collect();
        Condition::parse_all("conditions", Some(&list), ipv4)
    }

    #[test]
    fn what_is_understood_is_kept_and_the_rest_is_refused() {
        let list = parse(&["ip", "saddr", "!=", "10.0.0.0/8", "iifname \"eth0\""], true).unwrap();
        assert_eq!(list.len(), 2);
        assert!(matches!(
            &list[0],
            Condition::Address {
                not: true,
                side: Side::Source,
                ..
            }
        ));
        assert!(matches!(&list[1], Condition::Link { way: Way::In, name, not: false } if name == "eth0"));
        assert!(parse(&[], true).unwrap().is_empty());
        for bad in [
            "-d 1.2.3.4",
            "ip6 saddr fd00::/8",
            "ip saddr fd00::/8",
            "tcp dport 5",
            "ip saddr",
            "ip",
            "iifname",
        ] {
            assert!(parse(&[bad], true).is_err(), "{bad}");
        }
    }
}
