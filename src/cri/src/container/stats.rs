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
use crate::store::records::Phase;
use crate::{blocking, clock};

/// A CPU reading, and the rate up to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    at: i64,
    usage: u64,
    rate: Option<u64>,
}

/// The least time that a rate is taken over: who asks again sooner, or beside another, is told the last one.
const WINDOW: i64 = 1_000_000_000;
/// A rate over less than this says nothing, not even of what has just begun.
const SHORTEST: i64 = 1_000_000;

fn some(value: Option<u64>) -> Option<cri::UInt64Value> {
    value.map(|value| cri::UInt64Value { value })
}

/// Where rates are taken from: the last reading, and the time when nothing had been used yet.
pub(crate) type Since<'a> = (&'a Mutex<Option<Sample>>, i64);

/// The rate since the last reading, or since the beginning: who asks for the first time has an answer too, and nobody
/// has to take readings in between (the peers take one a second).
fn rate((sample, began): Since<'_>, at: i64, usage: u64) -> Option<u64> {
    let mut sample = sample.lock().unwrap_or_else(PoisonError::into_inner);
    let begin = Sample {
        at: began,
        usage: 0,
        rate: None,
    };
    let last = sample.unwrap_or(begin);
    let span = at - last.at;
    if span < WINDOW && last.rate.is_some() {
        return last.rate;
    }
    if span < SHORTEST {
        return None;
    }
    let used = u128::from(usage.saturating_sub(last.usage)) * 1_000_000_000;
    let rate = u64::try_from(used / u128::try_from(span).ok()?).ok();
    if span >= WINDOW {
        *sample = Some(Sample { at, usage, rate });
    }
    rate
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
pub(crate) fn usage(read: &Stats, pressures: &Pressures, since: Since<'_>, now: i64) -> Usage {
    Usage {
        cpu: read.cpu_usage_ns.map(|usage| cri::CpuUsage {
            timestamp: now,
            usage_core_nano_seconds: some(Some(usage)),
            usage_nano_cores: some(rate(since, now, usage)),
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
    let began = container.with_status(|status| match status.phase {
        Phase::Running { started_at } => started_at,
        _ => container.record.created_at,
    });
    let since = (&container.sample, began);
    let used = usage(&stats, &pressures, since, clock::strictly_later());
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
    fn a_rate_is_told_from_the_first_question_on_and_is_never_that_of_a_moment() {
        let sample = Mutex::default();
        let at = |ms: i64, used_ms: u64| {
            rate(
                (&sample, 5_000_000_000),
                5_000_000_000 + ms * 1_000_000,
                used_ms * 1_000_000,
            )
        };
        assert_eq!(at(0, 0), None);
        // What has just begun: since then.
        assert_eq!((at(10, 5), at(500, 100)), (Some(500_000_000), Some(200_000_000)));
        assert_eq!(at(2000, 1000), Some(500_000_000));
        // Another client, a moment later and busy as it is just then.
        assert_eq!((at(2001, 1001), at(2900, 1900)), (Some(500_000_000), Some(500_000_000)));
        assert_eq!(at(4000, 1500), Some(250_000_000));
        assert_eq!(at(14_000, 1500), Some(0));
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
        let used = usage(&Stats::default(), &pressures, (&Mutex::default(), 0), 5);
        let some = used.io.unwrap().psi.unwrap().some.unwrap();
        assert_eq!((some.total, some.avg10), (7000, 1.5));
        assert!(used.memory.psi.is_none() && used.cpu.is_none() && used.swap.is_none());
        let none = usage(&Stats::default(), &Pressures::default(), (&Mutex::default(), 0), 5);
        assert!(none.io.is_none());
    }
}
