//! CPU time and CPU sets.

use spec::runtime::LinuxCpu;

use super::{Layout, Plan, Write};
use crate::{Error, Version};

/// v2 weight for v1 shares, as today's runc and crun have it: a curve through
/// (2, 1), (1024, 100) and (262144, 10000), so that the defaults of both worlds meet. The older straight line
/// `1 + (shares - 2) * 9999 / 262142` gave 1024 shares a weight of 39, below every process that asked for nothing.
///
/// `ceil(10 ^ ((log2(shares)² + 125 log2(shares)) / 612 - 7/34))`
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "1..=10000"
)]
pub(super) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

pub(super) fn sets(cpu: &LinuxCpu, layout: Layout<'_>, plan: &mut Plan) -> Result<(), Error> {
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else {
            continue;
        };
        check_list(file, list)?;
        layout.need("a cpuset", "cpuset")?;
        plan.writes.push(Write::must("cpuset", file, list));
    }
    Ok(())
}

/// A list like "0-3,8": numbers below 2^16, ranges upwards, nothing empty (CVE-2018-20699: the range was expanded).
fn check_list(what: &'static str, list: &str) -> Result<(), Error> {
    let bad = || Error::invalid(what, list, "a list of numbers and ranges like 0-3,8 is wanted");
    let number = |text: &str| text.parse::<u16>().map_err(|_| bad());
    for part in list.trim_end_matches('\n').split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if number(first)? > number(last)? {
            return Err(bad());
        }
    }
    Ok(())
}

pub(super) fn time(cpu: &LinuxCpu, layout: Layout<'_>, plan: &mut Plan) -> Result<(), Error> {
    let shares = cpu.shares().filter(|shares| *shares > 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period > 0);
    let asked =
        shares.is_some() || quota.is_some() || period.is_some() || cpu.idle().is_some() || cpu.burst().is_some();
    let realtime = cpu.realtime_runtime().is_some() || cpu.realtime_period().is_some();
    if !asked && !realtime {
        return Ok(());
    }
    let writes = &mut plan.writes;
    match layout.need("a CPU limit", "cpu")? {
        Version::V1 => {
            // The kernel clamps shares to 2..=262144 by itself.
            writes.extend(shares.map(|shares| Write::must("cpu", "cpu.shares", shares)));
            writes.extend(cpu.idle().map(|idle| Write::must("cpu", "cpu.idle", idle).if_present()));
            // A period that makes the old quota exceed the parent's share is EINVAL until the new quota is in.
            writes.extend(period.map(|period| Write::must("cpu", "cpu.cfs_period_us", period).again()));
            writes.extend(quota.map(|quota| Write::must("cpu", "cpu.cfs_quota_us", quota.max(-1))));
            writes.extend(
                cpu.burst()
                    .map(|burst| Write::must("cpu", "cpu.cfs_burst_us", burst).again()),
            );
            writes.extend(
                cpu.realtime_period()
                    .map(|period| Write::must("cpu", "cpu.rt_period_us", period).again()),
            );
            writes.extend(
                cpu.realtime_runtime()
                    .map(|time| Write::must("cpu", "cpu.rt_runtime_us", time)),
            );
        }
        Version::V2 => {
            writes.extend(cpu.idle().map(|idle| Write::must("cpu", "cpu.idle", idle).if_present()));
            // An idle group has no weight: the kernel answers EINVAL.
            if cpu.idle() != Some(1) {
                writes.extend(shares.map(|shares| Write::must("cpu", "cpu.weight", weight(shares))));
            }
            let max = match (quota, period) {
                (Some(quota), Some(period)) if quota > 0 => Some(format!("{quota} {period}")),
                (Some(quota), None) if quota > 0 => Some(quota.to_string()),
                (Some(_), Some(period)) => Some(format!("max {period}")),
                (Some(_), None) => Some("max".to_owned()),
                // The file has no place for a period alone: quota and period are one line.
                (None, Some(period)) => Some(format!("max {period}")),
                (None, None) => None,
            };
            writes.extend(max.map(|max| Write::must("cpu", "cpu.max", max)));
            writes.extend(cpu.burst().map(|burst| Write::must("cpu", "cpu.max.burst", burst)));
            if realtime {
                return Err(Error::Missing {
                    what: "a realtime limit",
                    controller: "cpu (v1)",
                });
            }
        }
    }
    Ok(())
}
