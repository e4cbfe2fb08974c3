//! ContainerStats and ListContainerStats, from cgroup handles that are kept open, and the
//! writable layer's size from the image crate's background walk: no walk on a call.
//!
//! A stopped container is left out of the list; one that cannot be read is left out too:
//! never an error for all. Pressure is told where the kernel keeps it.

use std::sync::{Arc, Mutex, PoisonError};

use cgroup::{Pressure, Pressures, Stall, Stats};
use proto::cri;

use crate::error::Error;
use crate::kept::Group;
use crate::runtime::Runtime;
use crate::sandbox::list::selects;
use crate::store::container::Container;
use crate::{blocking, clock};

/// A CPU reading, for the rate until the next one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    at: i64,
    usage: u64,
}

/// Two readings nearer than this give no rate worth showing; the last rate's base is kept.
const SHORTEST: i64 = 1_000_000;

fn some(value: Option<u64>) -> Option<cri::UInt64Value> {
    value.map(|value| cri::UInt64Value { value })
}

fn rate(sample: &Mutex<Option<Sample>>, at: i64, usage: u64) -> Option<u64> {
    let mut sample = sample.lock().unwrap_or_else(PoisonError::into_inner);
    let last = sample.replace(Sample { at, usage });
    let last = last?;
    let span = at - last.at;
    if span < SHORTEST {
        *sample = Some(last);
        return None;
    }
    let used = u128::from(usage.saturating_sub(last.usage)) * 1_000_000_000;
    u64::try_from(used / u128::try_from(span).ok()?).ok()
}

fn psi(pressure: Option<Pressure>) -> Option<cri::PsiStats> {
    let data = |stall: Stall| cri::PsiData {
        // The kernel counts microseconds, CRI nanoseconds.
        total: stall.total_us.saturating_mul(1000),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    pressure.map(|pressure| cri::PsiStats {
        full: Some(data(pressure.full)),
        some: Some(data(pressure.some)),
    })
}

/// What a cgroup has used, in CRI's words: a container's or a pod's.
pub(crate) struct Usage {
    pub(crate) cpu: Option<cri::CpuUsage>,
    pub(crate) memory: cri::MemoryUsage,
    pub(crate) swap: Option<cri::SwapUsage>,
    pub(crate) io: Option<cri::IoUsage>,
}

/// The usage of one cgroup.
pub(crate) fn usage(read: &Stats, pressures: &Pressures, sample: &Mutex<Option<Sample>>, now: i64) -> Usage {
    Usage {
        cpu: read.cpu_usage_ns.map(|usage| cri::CpuUsage {
            timestamp: now,
            usage_core_nano_seconds: some(Some(usage)),
            usage_nano_cores: some(rate(sample, now, usage)),
            psi: psi(pressures.cpu),
        }),
        memory: cri::MemoryUsage {
            timestamp: now,
            working_set_bytes: some(read.memory_working_set),
            available_bytes: some(read.memory_available),
            usage_bytes: some(read.memory_usage),
            rss_bytes: some(read.memory_rss),
            page_faults: some(read.page_faults),
            major_page_faults: some(read.major_page_faults),
            psi: psi(pressures.memory),
        },
        swap: read.swap_usage.map(|usage| cri::SwapUsage {
            timestamp: now,
            swap_available_bytes: some(read.swap_available),
            swap_usage_bytes: some(Some(usage)),
        }),
        io: psi(pressures.io).map(|psi| cri::IoUsage {
            timestamp: now,
            psi: Some(psi),
        }),
    }
}

fn message(rt: &Runtime, container: &Container, used: Option<Usage>) -> Result<cri::ContainerStats, Error> {
    let config = container.config()?;
    let layer = rt
        .images
        .snapshot_usage(&container.id)
        .map(|usage| cri::FilesystemUsage {
            timestamp: usage.timestamp_ns,
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: rt.paths.snapshots().display().to_string(),
            }),
            used_bytes: some(Some(usage.used_bytes)),
            inodes_used: some(Some(usage.inodes_used)),
        });
    let mut stats = cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: container.record.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        writable_layer: layer,
        ..Default::default()
    };
    if let Some(used) = used {
        stats.cpu = used.cpu;
        stats.memory = Some(used.memory);
        stats.swap = used.swap;
        stats.io = used.io;
    }
    Ok(stats)
}

/// The cgroup of a container, kept open while it runs.
pub(crate) fn group(rt: &Runtime, container: &Container) -> Result<Arc<Group>, Error> {
    if let Some(group) = container.cgroup() {
        return Ok(group);
    }
    let path = &container.record.cgroup;
    let opened = Group::open(&rt.cgroups, &rt.kept, path).map_err(|e| Error::at("open the cgroup", path, &e))?;
    let opened = Arc::new(opened);
    if container.with_status(|s| s.is_running()) {
        container.set_cgroup(Some(Arc::clone(&opened)));
    }
    Ok(opened)
}

fn read(rt: &Runtime, container: &Container) -> Result<cri::ContainerStats, Error> {
    let group = group(rt, container)?;
    let read = || Ok::<_, cgroup::Error>((group.stats()?, group.pressures()?));
    let (stats, pressures) =
        read().map_err(|e| Error::at("read the statistics of", format!("container {}", container.id), &e))?;
    let used = usage(&stats, &pressures, &container.sample, clock::strictly_later());
    message(rt, container, Some(used))
}

/// Answers ContainerStats. A container that does not run has its attributes and layer only.
pub(crate) async fn one(rt: &Arc<Runtime>, id: &str) -> Result<cri::ContainerStatsResponse, Error> {
    let container = rt.index.container(id)?;
    let rt = Arc::clone(rt);
    let stats = blocking(move || {
        if container.with_status(|s| s.is_running()) {
            match read(&rt, &container) {
                // Ended between the look and the reading.
                Err(e) if e.kind() == spec::Kind::NotFound => {}
                other => return other,
            }
        }
        message(&rt, &container, None)
    })
    .await?;
    Ok(cri::ContainerStatsResponse { stats: Some(stats) })
}

fn matches(filter: &cri::ContainerStatsFilter, container: &Container) -> bool {
    container.id.as_str().starts_with(&filter.id)
        && container.record.sandbox_id.starts_with(&filter.pod_sandbox_id)
        && container
            .config()
            .is_ok_and(|c| selects(&filter.label_selector, &c.labels))
}

/// Answers ListContainerStats.
pub(crate) async fn list(
    rt: &Arc<Runtime>,
    request: cri::ListContainerStatsRequest,
) -> Result<cri::ListContainerStatsResponse, Error> {
    let mut wanted = rt.index.containers();
    wanted.retain(|container| {
        container.with_status(|status| status.is_running())
            && request.filter.as_ref().is_none_or(|f| matches(f, container))
    });
    let rt = Arc::clone(rt);
    let stats = crate::spread(wanted, || (), move |(), container| Ok(known(&rt, &container))).await?;
    Ok(cri::ListContainerStatsResponse {
        stats: stats.into_iter().flatten().collect(),
    })
}

/// The statistics of those that run.
pub(crate) fn readable<'a>(rt: &Runtime, all: impl Iterator<Item = &'a Arc<Container>>) -> Vec<cri::ContainerStats> {
    let running = all.filter(|container| container.with_status(|s| s.is_running()));
    running.filter_map(|container| known(rt, container)).collect()
}

fn known(rt: &Runtime, container: &Container) -> Option<cri::ContainerStats> {
    match read(rt, container) {
        Ok(one) => Some(one),
        Err(error) => {
            tracing::debug!(container = %container.id, %error, "left out of the statistics");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_that_are_apart() {
        let sample = Mutex::default();
        assert_eq!(rate(&sample, 1_000_000_000, 100), None);
        assert_eq!(rate(&sample, 1_000_000_500, 200), None);
        assert_eq!(rate(&sample, 2_000_000_000, 500_000_100), Some(500_000_000));
    }

    #[test]
    fn pressure_is_told_in_nanoseconds_and_only_where_it_is_known() {
        let pressures = Pressures {
            io: Some(Pressure {
                some: Stall {
                    total_us: 7,
                    avg10: 1.5,
                    ..Default::default()
                },
                ..Default::default()
            }),
            ..Default::default()
        };
        let used = usage(&Stats::default(), &pressures, &Mutex::default(), 5);
        let some = used.io.unwrap().psi.unwrap().some.unwrap();
        assert_eq!((some.total, some.avg10), (7000, 1.5));
        assert!(used.memory.psi.is_none() && used.cpu.is_none() && used.swap.is_none());
        let none = usage(&Stats::default(), &Pressures::default(), &Mutex::default(), 5);
        assert!(none.io.is_none());
    }
}
