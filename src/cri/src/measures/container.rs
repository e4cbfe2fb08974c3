//! The metrics of one container, from its cgroup, its processes and its writable layer.

use std::path::Path;

use cgroup::{Details, Pressures, Stats};
use proto::cri::ContainerMetrics;

use super::processes::{self, Held};
use super::sink::Sink;
use super::table as t;
use crate::container::stats::group;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::container::Container;
use crate::store::records::Phase;

/// The filesystem of the writable layers.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Filesystem {
    bytes: u64,
    inodes: u64,
    inodes_free: u64,
}

/// Looks at the filesystem that `path` is on.
pub(super) fn filesystem(path: &Path) -> Result<Filesystem, Error> {
    let found = rustix::fs::statvfs(path).map_err(|e| Error::at("measure the filesystem of", path.display(), &e))?;
    Ok(Filesystem {
        bytes: found.f_blocks.saturating_mul(found.f_frsize),
        inodes: found.f_files,
        inodes_free: found.f_ffree,
    })
}

/// Everything that was read for one container.
struct Read {
    stats: Stats,
    pressures: Pressures,
    details: Details,
    oom_kills: Option<u64>,
    processes: u64,
    held: Held,
    open_files: Option<u64>,
    layer_bytes: u64,
}

fn read(rt: &Runtime, container: &Container) -> Result<Read, Error> {
    let group = group(rt, container)?;
    let at = |e: cgroup::Error| Error::at("read the cgroup of", format!("container {}", container.id), &e);
    let pids = group.procs().map_err(at)?;
    Ok(Read {
        stats: group.stats().map_err(at)?,
        pressures: group.pressures().map_err(at)?,
        details: group.details().map_err(at)?,
        // Where there is no memory controller there is no counter.
        oom_kills: group.oom_kills().ok(),
        processes: pids.len() as u64,
        held: processes::held(&pids),
        open_files: processes::open_files(container.record.pid),
        // Not yet measured: it has just been made, and holds next to nothing.
        layer_bytes: rt
            .images
            .snapshot_usage(&container.id)
            .map_or(0, |usage| usage.used_bytes),
    })
}

/// The metrics of a container that runs.
pub(super) fn measure(
    rt: &Runtime,
    container: &Container,
    filesystem: Filesystem,
    (namespace, pod): (&str, &str),
    now: i64,
) -> Result<ContainerMetrics, Error> {
    let name = container.config()?.metadata.clone().unwrap_or_default().name;
    let base = [
        container.record.id.clone(),
        container.record.image_name.clone(),
        namespace.to_owned(),
        pod.to_owned(),
        name,
    ];
    let read = read(rt, container)?;
    let mut sink = Sink::new(base, now);
    cpu(&mut sink, &read);
    memory(&mut sink, &read);
    disk(&mut sink, &read, filesystem);
    processes(&mut sink, &read);
    pressure(&mut sink, &read.pressures);
    limits(&mut sink, &read.details);
    let seconds = |nanoseconds: i64| u64::try_from(nanoseconds / 1_000_000_000).ok();
    sink.plain(&t::LAST_SEEN, seconds(now));
    let started = container.with_status(|status| match status.phase {
        Phase::Running { started_at } => Some(started_at),
        _ => None,
    });
    sink.plain(&t::START_TIME, started.and_then(seconds));
    Ok(ContainerMetrics {
        container_id: container.record.id.clone(),
        metrics: sink.metrics(),
    })
}

fn cpu(sink: &mut Sink, read: &Read) {
    let details = &read.details;
    let total = read.stats.cpu_usage_ns.map(|value| value / 1_000_000_000);
    sink.put(&t::CPU_USAGE, &["total"], total);
    sink.seconds(&t::CPU_USER, details.cpu_user_ns);
    sink.seconds(&t::CPU_SYSTEM, details.cpu_system_ns);
    sink.plain(&t::CPU_PERIODS, details.cpu_periods);
    sink.plain(&t::CPU_THROTTLED_PERIODS, details.cpu_throttled_periods);
    sink.seconds(&t::CPU_THROTTLED, details.cpu_throttled_ns);
}

fn memory(sink: &mut Sink, read: &Read) {
    let (stats, details) = (&read.stats, &read.details);
    sink.plain(&t::MEMORY_CACHE, details.memory_cache);
    sink.plain(&t::MEMORY_RSS, stats.memory_rss);
    sink.plain(&t::MEMORY_KERNEL, details.memory_kernel);
    sink.plain(&t::MEMORY_MAPPED, details.memory_mapped_file);
    // Without swap accounting there is none that could be in use.
    sink.plain(&t::MEMORY_SWAP, Some(stats.swap_usage.unwrap_or(0)));
    sink.plain(&t::MEMORY_FAILCNT, details.memory_failcnt);
    sink.plain(&t::MEMORY_USAGE, stats.memory_usage);
    sink.plain(&t::MEMORY_MAX, details.memory_max_usage);
    sink.plain(&t::MEMORY_WORKING_SET, stats.memory_working_set);
    for (kind, values) in [
        ("pgfault", details.page_faults),
        ("pgmajfault", details.major_page_faults),
    ] {
        for (scope, value) in ["container", "hierarchy"].into_iter().zip(values) {
            sink.put(&t::MEMORY_FAILURES, &[kind, scope], value);
        }
    }
    sink.plain(&t::OOM_EVENTS, read.oom_kills);
}

fn disk(sink: &mut Sink, read: &Read, filesystem: Filesystem) {
    sink.plain(&t::FS_INODES_FREE, Some(filesystem.inodes_free));
    sink.plain(&t::FS_INODES, Some(filesystem.inodes));
    sink.plain(&t::FS_LIMIT, Some(filesystem.bytes));
    sink.plain(&t::FS_USAGE, Some(read.layer_bytes));
    for io in &read.details.io {
        let device = device(io.major, io.minor);
        for (measure, value) in [
            (&t::FS_READ_BYTES, io.read_bytes),
            (&t::FS_READS, io.reads),
            (&t::FS_WRITTEN_BYTES, io.write_bytes),
            (&t::FS_WRITES, io.writes),
        ] {
            sink.put(measure, &[&device], Some(value));
        }
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        for (operation, value) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
            sink.put(&t::BLKIO, &[&device, &major, &minor, operation], Some(value));
        }
    }
    for pages in &read.details.hugetlb {
        sink.put(&t::HUGETLB, &[&pages.size], Some(pages.usage));
        sink.put(&t::HUGETLB_MAX, &[&pages.size], Some(pages.max_usage));
    }
}

/// The device's name below `/dev`, or its number where sysfs does not name it.
fn device(major: u32, minor: u32) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default();
    let name = link.file_name().map(|name| name.to_string_lossy().into_owned());
    name.map_or_else(|| format!("{major}:{minor}"), |name| format!("/dev/{name}"))
}

fn processes(sink: &mut Sink, read: &Read) {
    sink.plain(&t::PROCESSES, Some(read.processes));
    sink.plain(&t::FILE_DESCRIPTORS, Some(read.held.descriptors));
    sink.plain(&t::SOCKETS, Some(read.held.sockets));
    sink.plain(&t::THREADS, read.details.pids_current);
    let controlled = read.details.pids_current.is_some();
    sink.plain(
        &t::THREADS_MAX,
        controlled.then(|| read.details.pids_limit.unwrap_or(0)),
    );
    sink.put(&t::ULIMITS, &["max_open_files"], read.open_files);
}

fn pressure(sink: &mut Sink, pressures: &Pressures) {
    for (stalled, waiting, pressure) in [
        (&t::PRESSURE_CPU_STALLED, &t::PRESSURE_CPU_WAITING, pressures.cpu),
        (&t::PRESSURE_IO_STALLED, &t::PRESSURE_IO_WAITING, pressures.io),
        (
            &t::PRESSURE_MEMORY_STALLED,
            &t::PRESSURE_MEMORY_WAITING,
            pressures.memory,
        ),
    ] {
        sink.plain(stalled, pressure.map(|p| p.full.total_us / 1_000_000));
        sink.plain(waiting, pressure.map(|p| p.some.total_us / 1_000_000));
    }
}

fn limits(sink: &mut Sink, details: &Details) {
    sink.plain(&t::SPEC_CPU_PERIOD, details.cpu_period);
    sink.plain(&t::SPEC_CPU_QUOTA, details.cpu_quota);
    sink.plain(&t::SPEC_CPU_SHARES, details.cpu_shares);
    sink.plain(&t::SPEC_MEMORY, Some(details.memory_limit.unwrap_or(0)));
    sink.plain(
        &t::SPEC_MEMORY_RESERVATION,
        Some(details.memory_reservation.unwrap_or(0)),
    );
    sink.plain(&t::SPEC_MEMORY_SWAP, Some(details.memory_and_swap_limit.unwrap_or(0)));
}
