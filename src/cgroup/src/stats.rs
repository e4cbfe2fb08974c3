//! The counters of a cgroup, one read a file. A file that is not there (controller not mounted, no swap accounting)
//! leaves its values out; only a cgroup that is gone altogether is an error.

use crate::fs::Dir;
use crate::{Cgroup, Error, Version, file};

/// What a cgroup has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time since the cgroup was made, in nanoseconds.
    pub cpu_usage_ns: Option<u64>,
    /// Bytes charged, page cache included.
    pub memory_usage: Option<u64>,
    /// `memory_usage` without inactive file pages: what the kubelet's eviction looks at.
    pub memory_working_set: Option<u64>,
    /// Limit minus working set; `None` without a limit.
    pub memory_available: Option<u64>,
    /// Anonymous memory (v1 counts its transparent huge pages in it, v2 `anon` too).
    pub memory_rss: Option<u64>,
    /// Page faults.
    pub page_faults: Option<u64>,
    /// Page faults that needed the disk.
    pub major_page_faults: Option<u64>,
    /// The limit; `None` = unlimited.
    pub memory_limit: Option<u64>,
    /// Swap in use.
    pub swap_usage: Option<u64>,
    /// Swap that may still be used; `None` without a limit.
    pub swap_available: Option<u64>,
}

/// v1 has no word for "unlimited": it answers the largest multiple of the page size below 2^63.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

impl Cgroup {
    /// Reads the counters.
    ///
    /// # Errors
    /// Not found where the cgroup is gone.
    pub fn stats(&self) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        if let Some(dir) = self.dir("memory") {
            // The first read says whether the cgroup is there.
            match dir.version {
                Version::V1 => memory_v1(dir, &mut stats)?,
                Version::V2 => memory_v2(dir, &mut stats)?,
            }
        }
        if let Some(dir) = self.dir("cpuacct") {
            stats.cpu_usage_ns = optional(dir.read_number("cpuacct.usage"))?.flatten();
        } else if let Some(dir) = self.v2().filter(|_| self.version() == Version::V2) {
            // cpu.stat is there even without the cpu controller.
            let text = optional(dir.read("cpu.stat"))?;
            stats.cpu_usage_ns = text
                .and_then(|text| file::field(&text, "usage_usec"))
                .map(|usec| usec.saturating_mul(1000));
        }
        Ok(stats)
    }
}

fn memory_v1(dir: &Dir, stats: &mut Stats) -> Result<(), Error> {
    let text = dir.read("memory.stat")?;
    let usage = dir.read_number("memory.usage_in_bytes")?;
    let limit = dir
        .read_number("memory.limit_in_bytes")?
        .filter(|limit| *limit < V1_UNLIMITED);
    let [inactive, rss, faults, major, hierarchy, swap, both] = file::fields(
        &text,
        [
            "total_inactive_file",
            "total_rss",
            "total_pgfault",
            "total_pgmajfault",
            "hierarchical_memory_limit",
            // These two are told where swap is accounted (`memcg1_stat_format` in the kernel).
            "total_swap",
            "hierarchical_memsw_limit",
        ],
    );
    fill_memory(stats, usage, limit, inactive);
    stats.memory_rss = rss;
    stats.page_faults = faults;
    stats.major_page_faults = major;
    stats.swap_usage = swap;
    // The limit is one of memory and swap together; what it has beyond that of memory is swap.
    let swap_limit = both
        .filter(|limit| *limit < V1_UNLIMITED)
        .zip(hierarchy)
        .map(|(both, memory)| both.saturating_sub(memory));
    stats.swap_available = swap_limit.zip(swap).map(|(limit, used)| limit.saturating_sub(used));
    Ok(())
}

fn memory_v2(dir: &Dir, stats: &mut Stats) -> Result<(), Error> {
    let text = dir.read("memory.stat")?;
    let usage = dir.read_number("memory.current")?;
    let limit = dir.read_number("memory.max")?;
    let [inactive, anon, faults, major] = file::fields(&text, ["inactive_file", "anon", "pgfault", "pgmajfault"]);
    fill_memory(stats, usage, limit, inactive);
    stats.memory_rss = anon;
    stats.page_faults = faults;
    stats.major_page_faults = major;
    stats.swap_usage = optional(dir.read_number("memory.swap.current"))?.flatten();
    let swap_limit = optional(dir.read_number("memory.swap.max"))?.flatten();
    stats.swap_available = swap_limit
        .zip(stats.swap_usage)
        .map(|(limit, used)| limit.saturating_sub(used));
    Ok(())
}

fn fill_memory(stats: &mut Stats, usage: Option<u64>, limit: Option<u64>, inactive_file: Option<u64>) {
    stats.memory_usage = usage;
    stats.memory_limit = limit;
    stats.memory_working_set = usage.map(|usage| usage.saturating_sub(inactive_file.unwrap_or(0)));
    stats.memory_available = limit
        .zip(stats.memory_working_set)
        .map(|(limit, used)| limit.saturating_sub(used));
}

fn optional<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_missing_file() => Ok(None),
        Err(error) => Err(error),
    }
}
