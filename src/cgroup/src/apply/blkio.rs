//! Block I/O: weights and throttles.

use spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::{Layout, Plan, Write};
use crate::{Error, Version};

/// A throttle: its v1 file, its v2 key, its devices.
type Throttle<'a> = (&'static str, &'static str, &'a Option<Vec<LinuxThrottleDevice>>);

pub(super) fn plan(io: &LinuxBlockIo, layout: Layout<'_>, plan: &mut Plan) -> Result<(), Error> {
    let throttles: [Throttle<'_>; 4] = [
        ("blkio.throttle.read_bps_device", "rbps", io.throttle_read_bps_device()),
        (
            "blkio.throttle.write_bps_device",
            "wbps",
            io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            "riops",
            io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            "wiops",
            io.throttle_write_iops_device(),
        ),
    ];
    let weight = io.weight().filter(|weight| *weight != 0);
    if let Some(weight) = weight.filter(|weight| !(10..=1000).contains(weight)) {
        return Err(Error::invalid(
            "block I/O weight",
            &weight.to_string(),
            "10 to 1000 is wanted",
        ));
    }
    let asked = weight.is_some() || io.weight_device().is_some() || throttles.iter().any(|(_, _, list)| list.is_some());
    if !asked {
        return Ok(());
    }
    let Some(version) = layout.version("blkio").or_else(|| layout.version("io")) else {
        return Err(Error::Missing {
            what: "a block I/O limit",
            controller: "io",
        });
    };
    let device_weights = io
        .weight_device()
        .iter()
        .flatten()
        .filter_map(|device| Some((device.major(), device.minor(), device.weight()?)));
    match version {
        Version::V1 => {
            // The weight belongs to the BFQ scheduler since CFQ went with Linux 5.0: absent where BFQ is.
            plan.writes
                .extend(weight.map(|weight| Write::must("blkio", "blkio.bfq.weight", weight).if_present()));
            for (major, minor, weight) in device_weights {
                let value = format!("{major}:{minor} {weight}");
                plan.writes
                    .push(Write::must("blkio", "blkio.bfq.weight_device", value).if_present());
            }
        }
        Version::V2 => {
            plan.writes
                .extend(weight.map(|weight| Write::must("io", "io.bfq.weight", weight).if_present()));
            plan.writes
                .extend(weight.map(|weight| Write::must("io", "io.weight", scale(weight)).if_present()));
            for (major, minor, weight) in device_weights {
                let value = format!("{major}:{minor} {weight}");
                plan.writes.push(Write::must("io", "io.bfq.weight", value).if_present());
            }
        }
    }
    for (file, key, devices) in throttles {
        for device in devices.iter().flatten() {
            let (major, minor, rate) = (device.major(), device.minor(), device.rate());
            plan.writes.push(match version {
                Version::V1 => Write::must("blkio", file, format!("{major}:{minor} {rate}")),
                // 0 is "no limit" in v1; v2 says max.
                Version::V2 if rate == 0 => Write::must("io", "io.max", format!("{major}:{minor} {key}=max")),
                Version::V2 => Write::must("io", "io.max", format!("{major}:{minor} {key}={rate}")),
            });
        }
    }
    Ok(())
}

/// 10..=1000 of blkio to 1..=10000 of io, in a straight line, as the kernel documentation of crun and runc has it.
fn scale(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}
