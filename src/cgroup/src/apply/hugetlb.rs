//! Huge pages and RDMA: named counters of the same shape in both versions.

use std::collections::{BTreeMap, HashMap};

use spec::runtime::{LinuxHugepageLimit, LinuxRdma};

use super::{Layout, Plan, Write};
use crate::{Error, Version};

/// The kubelet sends a limit (mostly 0) for each page size that the machine knows, whether the controller is there or
/// not; both peers tolerate its absence, and so do we, by name.
pub(super) fn plan(limits: &[LinuxHugepageLimit], layout: Layout<'_>, plan: &mut Plan) -> Result<(), Error> {
    for limit in limits {
        let size = limit.page_size();
        let digits = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
        if digits.is_empty()
            || !digits.bytes().all(|byte| byte.is_ascii_digit())
            || !matches!(&size[digits.len()..], "KB" | "MB" | "GB")
        {
            return Err(Error::invalid(
                "huge page size",
                size,
                "a size like 2MB or 1GB is wanted",
            ));
        }
        let (usage, reserved) = match layout.version("hugetlb") {
            Some(Version::V1) => ("limit_in_bytes", "rsvd.limit_in_bytes"),
            Some(Version::V2) => ("max", "rsvd.max"),
            None => {
                plan.skipped
                    .push(format!("huge pages of {size}: this host has no hugetlb controller"));
                continue;
            }
        };
        let value = if limit.limit() < 0 {
            "max".to_owned()
        } else {
            limit.limit().to_string()
        };
        let value = if value == "max" && usage != "max" {
            "-1".to_owned()
        } else {
            value
        };
        plan.writes
            .push(Write::must("hugetlb", format!("hugetlb.{size}.{usage}"), &value).if_present());
        // Since Linux 5.7 reservations are counted apart: a limit on usage alone lets mmap succeed and the touch die.
        plan.writes
            .push(Write::must("hugetlb", format!("hugetlb.{size}.{reserved}"), &value).if_present());
    }
    Ok(())
}

pub(super) fn rdma(limits: &HashMap<String, LinuxRdma>, layout: Layout<'_>, plan: &mut Plan) -> Result<(), Error> {
    let sorted: BTreeMap<&String, &LinuxRdma> = limits.iter().collect();
    for (device, limit) in sorted {
        if device.is_empty() || device.bytes().any(|byte| byte.is_ascii_whitespace() || byte == b'=') {
            return Err(Error::invalid("rdma device", device, "a name without blanks is wanted"));
        }
        layout.need("an RDMA limit", "rdma")?;
        let part = |key: &str, value: Option<u32>| value.map(|value| format!(" {key}={value}")).unwrap_or_default();
        let value = format!(
            "{device}{}{}",
            part("hca_handle", limit.hca_handles()),
            part("hca_object", limit.hca_objects())
        );
        plan.writes.push(Write::must("rdma", "rdma.max", value));
    }
    Ok(())
}
