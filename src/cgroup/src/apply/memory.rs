//! Memory and swap. OCI `swap` is memory plus swap, as v1 has it; v2 holds the difference.

use spec::runtime::LinuxMemory;

use super::{Current, Layout, Plan, Write};
use crate::{Error, Version};

pub(super) fn plan(memory: &LinuxMemory, layout: Layout<'_>, current: Current, plan: &mut Plan) -> Result<(), Error> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = memory.swap().filter(|swap| *swap != 0);
    let reservation = memory.reservation().filter(|value| *value != 0);
    if limit.is_none()
        && swap.is_none()
        && reservation.is_none()
        && memory.swappiness().is_none()
        && memory.disable_oom_killer() != Some(true)
    {
        return Ok(());
    }
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap > 0
        && (limit < 0 || swap < limit)
    {
        return Err(Error::invalid(
            "memory and swap",
            &swap.to_string(),
            "must not be below the memory limit",
        ));
    }
    match layout.need("a memory limit", "memory")? {
        Version::V1 => v1(memory, [limit, swap, reservation], current, plan),
        Version::V2 => v2(memory, [limit, swap, reservation], plan),
    }
}

fn v1(
    memory: &LinuxMemory,
    [limit, swap, reservation]: [Option<i64>; 3],
    current: Current,
    plan: &mut Plan,
) -> Result<(), Error> {
    let limit_write = limit.map(|limit| Write::must("memory", "memory.limit_in_bytes", limit.max(-1)));
    // Absent without swap accounting (CONFIG_SWAP, or swapaccount=0): there is then nothing to limit.
    let swap_write = swap.map(|swap| Write::must("memory", "memory.memsw.limit_in_bytes", swap.max(-1)).if_present());
    let grows = match (swap, current.memory_and_swap) {
        (Some(swap), Some(now)) => u64::try_from(swap).map_or(true, |swap| swap > now),
        _ => false,
    };
    if grows {
        plan.writes.extend(swap_write.into_iter().chain(limit_write));
    } else {
        plan.writes.extend(limit_write.into_iter().chain(swap_write));
    }
    plan.writes
        .extend(reservation.map(|value| Write::must("memory", "memory.soft_limit_in_bytes", value.max(-1))));
    if let Some(value) = memory.swappiness() {
        if value > 100 {
            return Err(Error::invalid("swappiness", &value.to_string(), "0 to 100 is wanted"));
        }
        plan.writes.push(Write::must("memory", "memory.swappiness", value));
    }
    if memory.disable_oom_killer() == Some(true) {
        plan.writes.push(Write::must("memory", "memory.oom_control", 1));
    }
    Ok(())
}

fn v2(memory: &LinuxMemory, [limit, swap, reservation]: [Option<i64>; 3], plan: &mut Plan) -> Result<(), Error> {
    let bytes = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if let Some(swap) = swap {
        let value = match limit {
            _ if swap < 0 => "max".to_owned(),
            Some(limit) if limit > 0 => (swap - limit).to_string(),
            _ => {
                return Err(Error::invalid(
                    "memory and swap",
                    &swap.to_string(),
                    "a memory limit is needed with it",
                ));
            }
        };
        plan.writes
            .push(Write::must("memory", "memory.swap.max", value).if_present());
    }
    if let Some(limit) = limit {
        plan.memory_floor = u64::try_from(limit).ok();
        plan.writes.push(Write::must("memory", "memory.max", bytes(limit)));
    }
    plan.writes
        .extend(reservation.map(|value| Write::must("memory", "memory.low", bytes(value))));
    if memory.swappiness().is_some() {
        plan.skipped.push("swappiness: cgroup v2 has none".to_owned());
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(Error::Missing {
            what: "disabling the OOM killer",
            controller: "memory (v1)",
        });
    }
    Ok(())
}
