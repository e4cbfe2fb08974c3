//! Control files to systemd's properties: what a limit that we write is called in a unit (systemd.resource-control(5)).
//!
//! Files that are no property (io limits by device, huge pages, `cpu.idle`) are ours alone: systemd does not touch them.

use zbus::Variant;

use crate::{Error, Host, apply};
use spec::runtime::LinuxResources;

type Property = (&'static str, Variant<'static>);

/// The properties that say what `limits` says.
///
/// # Errors
/// Where this host cannot hold the limits.
pub(crate) fn of(host: &Host, limits: &LinuxResources) -> Result<Vec<Property>, Error> {
    let files = apply::files(host, limits)?;
    Ok(files
        .iter()
        .flat_map(|(file, value)| property(file, value.trim()))
        .collect())
}

fn property(file: &str, value: &str) -> Vec<Property> {
    let number = |name: &'static str| {
        amount(value)
            .map(|number| (name, Variant::from(number)))
            .into_iter()
            .collect()
    };
    match file {
        "memory.max" => number("MemoryMax"),
        "memory.high" => number("MemoryHigh"),
        "memory.low" => number("MemoryLow"),
        "memory.min" => number("MemoryMin"),
        "memory.swap.max" => number("MemorySwapMax"),
        "pids.max" => number("TasksMax"),
        "cpu.weight" => number("CPUWeight"),
        "cpu.max" => quota(value),
        "cpuset.cpus" => vec![("AllowedCPUs", Variant::from(mask(value)))],
        "cpuset.mems" => vec![("AllowedMemoryNodes", Variant::from(mask(value)))],
        _ => Vec::new(),
    }
}

/// "max" is all of 64 bits, as systemd writes infinity.
fn amount(value: &str) -> Option<u64> {
    if value == "max" {
        Some(u64::MAX)
    } else {
        value.parse().ok()
    }
}

/// "quota period" in microseconds to microseconds a second. systemd keeps whole percents, so a fraction is rounded up:
/// what it writes is never less than what was asked for.
fn quota(value: &str) -> Vec<Property> {
    let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
    let Ok(period) = period.trim().parse::<u64>() else {
        return Vec::new();
    };
    let per_second = match quota.parse::<u64>() {
        Ok(quota) if period > 0 => (quota.saturating_mul(1_000_000) / period).div_ceil(10_000) * 10_000,
        _ => u64::MAX,
    };
    vec![
        ("CPUQuotaPerSecUSec", Variant::from(per_second)),
        ("CPUQuotaPeriodUSec", Variant::from(period)),
    ]
}

/// "0-2,8" as bits, the lowest first. The list was checked when the limits were planned.
fn mask(list: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) else {
            continue;
        };
        for bit in usize::from(first)..=usize::from(last) {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0);
            }
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(file: &str, value: &str) -> Vec<(&'static str, String)> {
        let shown = |value: &Variant<'_>| value.to_string();
        property(file, value)
            .iter()
            .map(|(name, value)| (*name, shown(value)))
            .collect()
    }

    #[test]
    fn amounts_and_infinity() {
        assert_eq!(
            one("memory.max", "1048576"),
            [("MemoryMax", "uint64 1048576".to_owned())]
        );
        assert_eq!(one("pids.max", "max"), [("TasksMax", format!("uint64 {}", u64::MAX))]);
        assert_eq!(one("cpu.weight", "79"), [("CPUWeight", "uint64 79".to_owned())]);
        assert!(one("io.max", "8:0 rbps=1").is_empty());
    }

    #[test]
    fn a_quota_is_a_second_s_share_in_whole_percents_and_never_less() {
        let pair = |quota: u64, period: u64| {
            vec![
                ("CPUQuotaPerSecUSec", format!("uint64 {quota}")),
                ("CPUQuotaPeriodUSec", format!("uint64 {period}")),
            ]
        };
        assert_eq!(one("cpu.max", "20000 100000"), pair(200_000, 100_000));
        assert_eq!(one("cpu.max", "1500 100000"), pair(20_000, 100_000));
        assert_eq!(one("cpu.max", "max 50000"), pair(u64::MAX, 50_000));
        assert_eq!(one("cpu.max", "max"), pair(u64::MAX, 100_000));
    }

    #[test]
    fn lists_are_masks() {
        assert_eq!(mask("0-2,9"), [0b111, 0b10]);
        assert_eq!(mask("8"), [0, 1]);
    }
}
