//! Ranges of addresses, and the order in which their addresses are tried: round robin from the
//! last one given out, so that a container that crashes in a loop does not get the same address
//! again before all others were used.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::conf::RawRange;
use crate::fault::{Fault, Result};

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The address of the same family as `like` with that number.
fn ip_of(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// Addresses of one subnet, first and last included.
#[derive(Debug, Clone)]
pub(super) struct Range {
    pub(super) subnet: IpNet,
    pub(super) gateway: IpAddr,
    start: IpAddr,
    end: IpAddr,
}

impl Range {
    /// Fills in what is left out, as the reference does: gateway and start the first address of
    /// the subnet, end the last (without the broadcast address).
    pub(super) fn new(raw: RawRange) -> Result<Self> {
        let subnet = raw.subnet;
        if subnet.prefix_len() > subnet.max_prefix_len() - 2 {
            return Err(Fault::config(format!("network {subnet} is too small to allocate from")));
        }
        if subnet.addr() != subnet.network() {
            return Err(Fault::config(format!(
                "{subnet} has host bits set: the network is {}",
                subnet.trunc()
            )));
        }
        let first = ip_of(number(subnet.network()) + 1, subnet.addr());
        let last = number(subnet.broadcast()) - u128::from(subnet.addr().is_ipv4());
        let range = Self {
            gateway: raw.gateway.unwrap_or(first),
            start: raw.start.unwrap_or(first),
            end: raw.end.unwrap_or(ip_of(last, subnet.addr())),
            subnet,
        };
        for (key, ip) in [("rangeStart", range.start), ("rangeEnd", range.end)] {
            if !subnet.contains(&ip) {
                return Err(Fault::config(format!("{key} {ip} is not in network {subnet}")));
            }
        }
        if range.gateway.is_ipv4() != subnet.addr().is_ipv4() {
            return Err(Fault::config(format!(
                "gateway {} is of another family than {subnet}",
                range.gateway
            )));
        }
        if number(range.start) > number(range.end) {
            return Err(Fault::config(format!(
                "rangeStart {} is behind rangeEnd {}",
                range.start, range.end
            )));
        }
        Ok(range)
    }

    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.start.is_ipv4() && (number(self.start)..=number(self.end)).contains(&number(ip))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }

    fn addresses(&self, first: u128, last: u128) -> impl Iterator<Item = (IpAddr, &Self)> {
        (first..=last)
            .map(|number| ip_of(number, self.start))
            .filter(|ip| *ip != self.gateway)
            .map(move |ip| (ip, self))
    }
}

/// Ranges of one family, of which a container gets one address.
#[derive(Debug, Clone)]
pub(super) struct RangeSet(Vec<Range>);

impl RangeSet {
    pub(super) fn new(ranges: Vec<Range>) -> Result<Self> {
        let Some(first) = ranges.first() else {
            return Err(Fault::config("is empty"));
        };
        for (index, range) in ranges.iter().enumerate() {
            if range.start.is_ipv4() != first.start.is_ipv4() {
                return Err(Fault::config("mixes address families"));
            }
            if let Some(earlier) = ranges[..index].iter().find(|earlier| earlier.overlaps(range)) {
                return Err(Fault::config(format!(
                    "subnets {} and {} overlap",
                    earlier.subnet, range.subnet
                )));
            }
        }
        Ok(Self(ranges))
    }

    pub(super) fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.range_of(ip).is_some()
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.overlaps(b)))
    }

    /// Every address once, without gateways, from the one after `last` round to `last` itself.
    pub(super) fn candidates(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        let found = last.and_then(|ip| {
            self.0
                .iter()
                .position(|range| range.contains(ip))
                .map(|at| (at, number(ip)))
        });
        let (at, after) = found.unwrap_or_else(|| (0, number(self.0[0].start).saturating_sub(1)));
        let here = &self.0[at];
        // At the end of the number space there is nothing behind the last address.
        let tail = after
            .checked_add(1)
            .map(|first| here.addresses(first, number(here.end)))
            .into_iter()
            .flatten();
        let others = (1..self.0.len()).map(move |step| &self.0[(at + step) % self.0.len()]);
        let others = others.flat_map(|range| range.addresses(number(range.start), number(range.end)));
        tail.chain(others).chain(here.addresses(number(here.start), after))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}-{}", range.start, range.end)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Result<Range> {
        Range::new(serde_json::from_str(text).unwrap())
    }

    fn set(ranges: &[&str]) -> RangeSet {
        RangeSet::new(ranges.iter().map(|text| range(text).unwrap()).collect()).unwrap()
    }

    fn order(set: &RangeSet, last: Option<&str>) -> Vec<String> {
        set.candidates(last.map(|ip| ip.parse().unwrap()))
            .map(|(ip, _)| ip.to_string())
            .collect()
    }

    #[test]
    fn addresses_go_round_and_skip_the_gateway() {
        let one = set(&[r#"{"subnet":"10.0.0.0/29"}"#]);
        assert_eq!(
            order(&one, None),
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert_eq!(
            order(&one, Some("10.0.0.5")),
            ["10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]
        );
        assert_eq!(order(&one, Some("10.9.0.5"))[0], "10.0.0.2");
        let two = set(&[
            r#"{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.10"}"#,
            r#"{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.1","rangeEnd":"10.1.0.2","gateway":"10.1.0.254"}"#,
        ]);
        assert_eq!(
            order(&two, Some("10.1.0.1")),
            ["10.1.0.2", "10.0.0.9", "10.0.0.10", "10.1.0.1"]
        );
        assert_eq!(order(&two, None).len(), 4);
    }

    #[test]
    fn the_ends_of_the_number_space_hold() {
        let six = set(&[
            r#"{"subnet":"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124","gateway":"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff1"}"#,
        ]);
        assert_eq!(order(&six, None).len(), 14);
        assert_eq!(order(&six, Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")).len(), 14);
        let huge = set(&[r#"{"subnet":"fd00::/8"}"#]);
        assert_eq!(huge.candidates(None).next().unwrap().0.to_string(), "fd00::2");
        let low = set(&[r#"{"subnet":"0.0.0.0/30","gateway":"0.0.0.2"}"#]);
        assert_eq!(order(&low, None), ["0.0.0.1"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            r#"{"subnet":"10.0.0.0/31"}"#,
            r#"{"subnet":"10.0.0.5/24"}"#,
            r#"{"subnet":"10.0.0.0/24","rangeStart":"10.0.1.1"}"#,
            r#"{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.8"}"#,
            r#"{"subnet":"10.0.0.0/24","gateway":"fd00::1"}"#,
        ] {
            assert!(range(bad).is_err(), "{bad}");
        }
        let overlapping = [r#"{"subnet":"10.0.0.0/16"}"#, r#"{"subnet":"10.0.1.0/24"}"#];
        assert!(RangeSet::new(overlapping.iter().map(|r| range(r).unwrap()).collect()).is_err());
    }
}
