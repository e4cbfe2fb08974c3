//! ContainerStats and ListContainerStats, from cgroup handles that are kept open, and the
//! writable layer's size from the image crate's background walk: no walk on a call.
//!
//! A stopped container is left out of the list; one that cannot be read is left out too:
//! never an error for all.

use std::sync::{Arc, PoisonError};

use cgroup::Stats;
use proto::cri;

use crate::error::Error;
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

fn rate(container: &Container, at: i64, usage: u64) -> Option<u64> {
    let mut sample = container.sample.lock().unwrap_or_else(PoisonError::into_inner);
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

fn message(rt: &Runtime, container: &Container, read: &Stats) -> Result<cri::ContainerStats, Error> {
    let config = container.config()?;
    let now = clock::strictly_later();
    let cpu = read.cpu_usage_ns.map(|usage| cri::CpuUsage {
        timestamp: now,
        usage_core_nano_seconds: some(Some(usage)),
        usage_nano_cores: some(rate(container, now, usage)),
        psi: None,
    });
    let memory = cri::MemoryUsage {
        timestamp: now,
        working_set_bytes: some(read.memory_working_set),
        available_bytes: some(read.memory_available),
        usage_bytes: some(read.memory_usage),
        rss_bytes: some(read.memory_rss),
        page_faults: some(read.page_faults),
        major_page_faults: some(read.major_page_faults),
        psi: None,
    };
    let swap = read.swap_usage.map(|usage| cri::SwapUsage {
        timestamp: now,
        swap_available_bytes: some(read.swap_available),
        swap_usage_bytes: some(Some(usage)),
    });
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
    Ok(cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: container.record.id.clone(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu,
        memory: Some(memory),
        writable_layer: layer,
        swap,
        io: None,
    })
}

fn read(rt: &Runtime, container: &Container) -> Result<cri::ContainerStats, Error> {
    let group = match container.cgroup() {
        Some(group) => group,
        None => {
            let path = &container.record.cgroup;
            let opened = rt
                .cgroups
                .open(path)
                .map_err(|e| Error::at("open the cgroup", path, &e))?;
            let opened = Arc::new(opened);
            if container.with_status(|s| s.is_running()) {
                container.set_cgroup(Some(Arc::clone(&opened)));
            }
            opened
        }
    };
    let stats = group
        .stats()
        .map_err(|e| Error::at("read the statistics of", format!("container {}", container.id), &e))?;
    message(rt, container, &stats)
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
        let mut stats = message(&rt, &container, &Stats::default())?;
        stats.memory = None;
        Ok(stats)
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
    let rt = Arc::clone(rt);
    let stats = blocking(move || {
        let mut stats = Vec::new();
        for container in rt.index.containers() {
            let wanted = container.with_status(|s| s.is_running())
                && request.filter.as_ref().is_none_or(|f| matches(f, &container));
            if !wanted {
                continue;
            }
            match read(&rt, &container) {
                Ok(one) => stats.push(one),
                Err(error) => tracing::debug!(container = %container.id, %error, "left out of the statistics"),
            }
        }
        Ok(stats)
    })
    .await?;
    Ok(cri::ListContainerStatsResponse { stats })
}
