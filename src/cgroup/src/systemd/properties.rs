//! Limits as properties of a unit (systemd.resource-control(5)). What has no property is in the files alone.

use spec::runtime::LinuxResources;

use super::wire::Value;
use crate::Error;
use crate::apply::weight;

/// A property and its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Property {
    pub(super) name: &'static str,
    pub(super) value: Value,
}

impl Property {
    pub(super) fn new(name: &'static str, value: Value) -> Self {
        Self { name, value }
    }
}

/// systemd keeps CPUQuotaPerSecUSec in steps of one per cent of a second.
const STEP: u64 = 10_000;

pub(super) fn of(limits: &LinuxResources) -> Result<Vec<Property>, Error> {
    let mut all = Vec::new();
    let mut number = |name, value| all.push(Property::new(name, Value::Number(value)));
    if let Some(memory) = limits.memory() {
        let or_none = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
        if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
            number("MemoryMax", or_none(limit));
        }
        if let Some(low) = memory.reservation().filter(|low| *low != 0) {
            number("MemoryLow", or_none(low));
        }
        // The OCI figure is memory and swap together, that of v2 is swap alone.
        match (memory.swap(), memory.limit()) {
            (Some(-1), _) => number("MemorySwapMax", u64::MAX),
            (Some(both), Some(limit)) if both > 0 && limit > 0 => {
                number("MemorySwapMax", u64::try_from(both - limit).unwrap_or(0));
            }
            _ => {}
        }
    }
    if let Some(cpu) = limits.cpu() {
        if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
            number("CPUWeight", weight(shares));
        }
        let period = cpu.period().filter(|period| *period > 0);
        if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
            let per_second = u64::try_from(quota).map_or(u64::MAX, |quota| {
                let exact = quota.saturating_mul(1_000_000) / period.unwrap_or(100_000);
                exact.div_ceil(STEP).max(1).saturating_mul(STEP)
            });
            number("CPUQuotaPerSecUSec", per_second);
        }
        if let Some(period) = period {
            number("CPUQuotaPeriodUSec", period);
        }
    }
    if let Some(limit) = limits.pids().as_ref().map(oci_limit).filter(|limit| *limit != 0) {
        number("TasksMax", u64::try_from(limit).unwrap_or(u64::MAX));
    }
    for (name, value) in limits.unified().iter().flatten() {
        let property = match name.as_str() {
            "memory.high" => "MemoryHigh",
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            _ => continue,
        };
        let value = match value.trim() {
            "max" => Some(u64::MAX),
            text => text.parse().ok(),
        };
        // A value that is no number was refused by the kernel when the file was written.
        if let Some(value) = value {
            number(property, value);
        }
    }
    let cpu = limits.cpu().as_ref();
    for (name, list) in [
        ("AllowedCPUs", cpu.and_then(|cpu| cpu.cpus().clone())),
        ("AllowedMemoryNodes", cpu.and_then(|cpu| cpu.mems().clone())),
    ] {
        if let Some(list) = list.filter(|list| !list.is_empty()) {
            all.push(Property::new(name, Value::Bytes(mask(&list)?)));
        }
    }
    Ok(all)
}

fn oci_limit(pids: &spec::runtime::LinuxPids) -> i64 {
    pids.limit()
}

/// A list like "0-3,8" as bits, the lowest first.
fn mask(list: &str) -> Result<Vec<u8>, Error> {
    let bad = || Error::invalid("cpuset", list, "a list of numbers and ranges like 0-3,8 is wanted");
    let number = |text: &str| text.trim().parse::<u16>().map_err(|_| bad());
    let mut bits = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        for bit in number(first)?..=number(last)? {
            let byte = usize::from(bit / 8);
            if bits.len() <= byte {
                bits.resize(byte + 1, 0);
            }
            bits[byte] |= 1 << (bit % 8);
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(json: serde_json::Value) -> Vec<(&'static str, Value)> {
        let limits: LinuxResources = serde_json::from_value(json).unwrap();
        of(&limits)
            .unwrap()
            .into_iter()
            .map(|one| (one.name, one.value))
            .collect()
    }

    #[test]
    fn limits_become_properties() {
        let all = properties(serde_json::json!({
            "memory": {"limit": 1000, "swap": 1500, "reservation": 10},
            "cpu": {"shares": 1024, "quota": 12345, "period": 100_000, "cpus": "0-1,9", "mems": "0"},
            "pids": {"limit": 7},
            "unified": {"memory.high": "max", "memory.oom.group": "1"},
        }));
        let wanted = vec![
            ("MemoryMax", Value::Number(1000)),
            ("MemoryLow", Value::Number(10)),
            ("MemorySwapMax", Value::Number(500)),
            ("CPUWeight", Value::Number(100)),
            ("CPUQuotaPerSecUSec", Value::Number(130_000)),
            ("CPUQuotaPeriodUSec", Value::Number(100_000)),
            ("TasksMax", Value::Number(7)),
            ("MemoryHigh", Value::Number(u64::MAX)),
            ("AllowedCPUs", Value::Bytes(vec![3, 2])),
            ("AllowedMemoryNodes", Value::Bytes(vec![1])),
        ];
        assert_eq!(all, wanted);
    }

    #[test]
    fn none_and_no_limit_are_told_apart() {
        assert_eq!(
            properties(serde_json::json!({"cpu": {"shares": 0, "quota": 0}, "memory": {}})),
            vec![]
        );
        let unlimited = properties(
            serde_json::json!({"cpu": {"quota": -1}, "memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}}),
        );
        assert_eq!(unlimited.len(), 4);
        assert!(
            unlimited.iter().all(|(_, value)| *value == Value::Number(u64::MAX)),
            "{unlimited:?}"
        );
        assert!(mask("1-").is_err() && mask("x").is_err() && mask("70000").is_err());
    }
}
