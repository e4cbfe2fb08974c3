//! Every counter and limit of a cgroup that the metrics of a container are made of. More files than `stats`, read when
//! somebody asks for metrics.

use crate::fs::Dir;
use crate::{Cgroup, Error, Version, file};

/// Counters and limits. `None` and empty: the kernel does not keep it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// CPU time in user space, nanoseconds.
    pub cpu_user_ns: Option<u64>,
    /// CPU time in the kernel, nanoseconds.
    pub cpu_system_ns: Option<u64>,
    /// Enforcement periods that have passed.
    pub cpu_periods: Option<u64>,
    /// Of these, periods in which it was throttled.
    pub cpu_throttled_periods: Option<u64>,
    /// Time that it was throttled, nanoseconds.
    pub cpu_throttled_ns: Option<u64>,
    /// Page cache, bytes.
    pub memory_cache: Option<u64>,
    /// Mapped files, bytes.
    pub memory_mapped_file: Option<u64>,
    /// Memory of the kernel on its behalf, bytes.
    pub memory_kernel: Option<u64>,
    /// How often the limit was hit.
    pub memory_failcnt: Option<u64>,
    /// Most memory that was ever in use, bytes.
    pub memory_max_usage: Option<u64>,
    /// Page faults: of the cgroup alone, and with those below it.
    pub page_faults: [Option<u64>; 2],
    /// Major page faults, likewise.
    pub major_page_faults: [Option<u64>; 2],
    /// Huge pages by size.
    pub hugetlb: Vec<HugePages>,
    /// Transfers by device.
    pub io: Vec<Io>,
    /// Relative share of the CPU as v1 counts it; v2 weights are turned back.
    pub cpu_shares: Option<u64>,
    /// CPU time in a period, microseconds; `None` = unlimited.
    pub cpu_quota: Option<u64>,
    /// The period, microseconds.
    pub cpu_period: Option<u64>,
    /// Memory limit; `None` = unlimited.
    pub memory_limit: Option<u64>,
    /// Soft limit; `None` = none.
    pub memory_reservation: Option<u64>,
    /// Limit of memory and swap together; `None` = unlimited.
    pub memory_and_swap_limit: Option<u64>,
    /// Processes and threads.
    pub pids_current: Option<u64>,
    /// Their limit; `None` = unlimited.
    pub pids_limit: Option<u64>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// "2MB".
    pub size: String,
    /// In use, bytes.
    pub usage: u64,
    /// Most that was ever in use, bytes.
    pub max_usage: u64,
}

/// Transfers with one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Io {
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// As in `stats`: what v1 says for "unlimited".
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

impl Cgroup {
    /// Reads everything. A file that is missing leaves its value out.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn details(&self) -> Result<Details, Error> {
        let mut details = Details::default();
        if let Some(dir) = self.dir("cpu") {
            let text = text(dir, "cpu.stat")?;
            details.cpu_periods = file::field(&text, "nr_periods");
            details.cpu_throttled_periods = file::field(&text, "nr_throttled");
            match dir.version {
                Version::V1 => cpu_v1(dir, &text, &mut details)?,
                Version::V2 => cpu_v2(dir, &text, &mut details)?,
            }
        }
        if let Some(dir) = self.dir("cpuacct") {
            details.cpu_user_ns = number(dir, "cpuacct.usage_user")?;
            details.cpu_system_ns = number(dir, "cpuacct.usage_sys")?;
        }
        if let Some(dir) = self.dir("memory") {
            match dir.version {
                Version::V1 => memory_v1(dir, &mut details)?,
                Version::V2 => memory_v2(dir, &mut details)?,
            }
        }
        if let Some(dir) = self.dir("pids") {
            details.pids_current = number(dir, "pids.current")?;
            details.pids_limit = number(dir, "pids.max")?;
        }
        if let Some(dir) = self.dir("hugetlb") {
            details.hugetlb = hugetlb(dir)?;
        }
        if let Some(dir) = self.dir("blkio") {
            details.io = io_v1(
                &text(dir, "blkio.throttle.io_service_bytes_recursive")?,
                &text(dir, "blkio.throttle.io_serviced_recursive")?,
            );
        } else if let Some(dir) = self.dir("io") {
            details.io = io_v2(&text(dir, "io.stat")?);
        }
        Ok(details)
    }
}

fn text(dir: &Dir, name: &str) -> Result<String, Error> {
    match file::read(&dir.path.join(name)) {
        Err(error) if error.is_missing_file() || error.is_unsupported() => Ok(String::new()),
        other => other,
    }
}

fn number(dir: &Dir, name: &str) -> Result<Option<u64>, Error> {
    match file::read_number(&dir.path.join(name)) {
        Err(error) if error.is_missing_file() || error.is_unsupported() => Ok(None),
        other => other,
    }
}

fn limited(value: Option<u64>) -> Option<u64> {
    value.filter(|limit| *limit < V1_UNLIMITED)
}

fn cpu_v1(dir: &Dir, stat: &str, details: &mut Details) -> Result<(), Error> {
    details.cpu_throttled_ns = file::field(stat, "throttled_time");
    details.cpu_shares = number(dir, "cpu.shares")?;
    details.cpu_quota = number(dir, "cpu.cfs_quota_us")?;
    details.cpu_period = number(dir, "cpu.cfs_period_us")?;
    Ok(())
}

fn cpu_v2(dir: &Dir, stat: &str, details: &mut Details) -> Result<(), Error> {
    let micros = |key| file::field(stat, key).map(|usec| usec.saturating_mul(1000));
    details.cpu_user_ns = micros("user_usec");
    details.cpu_system_ns = micros("system_usec");
    details.cpu_throttled_ns = micros("throttled_usec");
    details.cpu_shares = number(dir, "cpu.weight")?.map(crate::apply::shares);
    let max = text(dir, "cpu.max")?;
    let mut words = max.split_whitespace();
    details.cpu_quota = words.next().and_then(|quota| quota.parse().ok());
    details.cpu_period = words.next().and_then(|period| period.parse().ok());
    Ok(())
}

fn memory_v1(dir: &Dir, details: &mut Details) -> Result<(), Error> {
    let stat = text(dir, "memory.stat")?;
    details.memory_cache = file::field(&stat, "total_cache");
    details.memory_mapped_file = file::field(&stat, "total_mapped_file");
    details.page_faults = [file::field(&stat, "pgfault"), file::field(&stat, "total_pgfault")];
    details.major_page_faults = [file::field(&stat, "pgmajfault"), file::field(&stat, "total_pgmajfault")];
    details.memory_kernel = number(dir, "memory.kmem.usage_in_bytes")?;
    details.memory_failcnt = number(dir, "memory.failcnt")?;
    details.memory_max_usage = number(dir, "memory.max_usage_in_bytes")?;
    details.memory_limit = limited(number(dir, "memory.limit_in_bytes")?);
    details.memory_reservation = limited(number(dir, "memory.soft_limit_in_bytes")?);
    details.memory_and_swap_limit = limited(number(dir, "memory.memsw.limit_in_bytes")?);
    Ok(())
}

fn memory_v2(dir: &Dir, details: &mut Details) -> Result<(), Error> {
    let stat = text(dir, "memory.stat")?;
    details.memory_cache = file::field(&stat, "file");
    details.memory_mapped_file = file::field(&stat, "file_mapped");
    // v2 counts with what is below it only.
    details.page_faults = [file::field(&stat, "pgfault"); 2];
    details.major_page_faults = [file::field(&stat, "pgmajfault"); 2];
    // Since Linux 5.18; before, the largest parts are known one by one.
    details.memory_kernel = file::field(&stat, "kernel").or_else(|| {
        let parts = ["slab", "kernel_stack", "pagetables", "percpu", "sock"];
        parts
            .into_iter()
            .filter_map(|part| file::field(&stat, part))
            .reduce(u64::saturating_add)
    });
    details.memory_failcnt = file::field(&text(dir, "memory.events")?, "max");
    // Since Linux 5.19.
    details.memory_max_usage = number(dir, "memory.peak")?;
    details.memory_limit = number(dir, "memory.max")?;
    details.memory_reservation = number(dir, "memory.low")?.filter(|low| *low > 0);
    let swap = number(dir, "memory.swap.max")?;
    details.memory_and_swap_limit = details.memory_limit.zip(swap).map(|(limit, swap)| limit + swap);
    Ok(())
}

fn hugetlb(dir: &Dir) -> Result<Vec<HugePages>, Error> {
    let (usage, max) = match dir.version {
        Version::V1 => ("usage_in_bytes", "max_usage_in_bytes"),
        Version::V2 => ("current", "max_usage"),
    };
    let mut all = Vec::new();
    let entries = std::fs::read_dir(&dir.path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    for name in names {
        let size = name
            .strip_prefix("hugetlb.")
            .and_then(|rest| rest.split_once('.'))
            .filter(|(_, file)| *file == usage)
            .map(|(size, _)| size.to_owned());
        let Some(size) = size else { continue };
        let now = number(dir, &name)?.unwrap_or(0);
        // v2 keeps no maximum: what is known is that it was at least this.
        let most = number(dir, &format!("hugetlb.{size}.{max}"))?.unwrap_or(now);
        all.push(HugePages {
            size,
            usage: now,
            max_usage: most,
        });
    }
    Ok(all)
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines of "254:0 Read 4096".
fn io_v1(bytes: &str, operations: &str) -> Vec<Io> {
    let mut all: Vec<Io> = Vec::new();
    for (text, counts_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(number), Some(kind), Some(value)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Some((major, minor)), Ok(value)) = (device(number), value.parse::<u64>()) else {
                continue;
            };
            let found = all.iter().position(|io| (io.major, io.minor) == (major, minor));
            let at = found.unwrap_or_else(|| {
                all.push(Io {
                    major,
                    minor,
                    ..Io::default()
                });
                all.len() - 1
            });
            let io = &mut all[at];
            match (kind, counts_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.write_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    all
}

/// Lines of "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
fn io_v2(text: &str) -> Vec<Io> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = device(words.next()?)?;
        let mut io = Io {
            major,
            minor,
            ..Io::default()
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.write_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_of_v1_are_put_together_from_two_files() {
        let bytes = "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\n254:0 Total 12288\n8:16 Read 1\nTotal 12289\n";
        let operations = "254:0 Read 1\n254:0 Write 2\nTotal 3\n";
        let all = io_v1(bytes, operations);
        let first = Io {
            major: 254,
            minor: 0,
            read_bytes: 4096,
            write_bytes: 8192,
            reads: 1,
            writes: 2,
        };
        assert_eq!(all.len(), 2);
        assert_eq!((all[0], all[1].major, all[1].read_bytes), (first, 8, 1));
    }

    #[test]
    fn transfers_of_v2_are_one_line_a_device() {
        let all = io_v2("8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:0 \n");
        assert_eq!((all[0].read_bytes, all[0].writes, all.len()), (10, 2, 2));
    }
}
