//! UpdateContainerResources: a resize in place.
//!
//! 1. check it, merge it into what the container has (pure)   2. the limits, in its cgroup: all or none
//! 3. the OOM score of its processes   4. the record, from which ContainerStatus and the next daemon know it
//!
//! A value that CRI leaves at 0 stays as it is. ContainerStatus says afterwards what was asked for, to the digit: the
//! kubelet compares, and `cpu.weight` could not give every number of shares back.

use std::fs;
use std::sync::Arc;

use proto::cri;

use super::plan::resources;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::container::Container;
use crate::store::records::{Phase, Resources};
use crate::{blocking, detached, scope};

/// Changes a container's limits.
pub(crate) async fn update(rt: &Arc<Runtime>, request: cri::UpdateContainerResourcesRequest) -> Result<(), Error> {
    let container = rt.index.container(&request.container_id)?;
    let wanted = wanted(request)?;
    let rt = Arc::clone(rt);
    detached(async move {
        let _turn = container.turn.lock().await;
        go(&rt, &container, wanted).await
    })
    .await
}

/// What is asked for; the parts that have no meaning here are refused.
fn wanted(request: cri::UpdateContainerResourcesRequest) -> Result<cri::LinuxContainerResources, Error> {
    if request.windows.is_some() {
        return Err(Error::invalid("windows resources: this is a Linux node"));
    }
    if let Some(key) = request.annotations.keys().next() {
        let key = crate::store::index::shown(key);
        return Err(Error::invalid(format!(
            "annotation {key:?}: no annotation changes what an update does"
        )));
    }
    request
        .linux
        .ok_or_else(|| Error::invalid("no linux resources are given"))
}

async fn go(rt: &Arc<Runtime>, container: &Arc<Container>, wanted: cri::LinuxContainerResources) -> Result<(), Error> {
    let (ended, removing) = container.with_status(|s| (s.exit().is_some(), s.removing));
    if ended || removing {
        return Err(Error::precondition(format!(
            "container {} has ended; it has no resources any more",
            container.id
        )));
    }
    let had = effective(container)?.unwrap_or_default();
    least_memory(&had, &wanted, least(rt, container))?;
    let now = merged(&had, &wanted)?;
    let limits = resources::resources(&now)?;
    let score = resources::oom_score_adj(&now)?;
    let path = container.record.cgroup.clone();
    scope::resize(rt, &path, limits, &format!("container {}", container.id)).await?;
    if now.oom_score_adj != had.oom_score_adj {
        let (rt2, container2) = (Arc::clone(rt), Arc::clone(container));
        blocking(move || {
            let group = rt2.cgroups.open(&path);
            let group = group.map_err(|e| Error::at("open the cgroup", &path, &e))?;
            score_all(&group, score, &container2)
        })
        .await?;
    }
    container
        .update(&rt.db, |status| {
            let there = !matches!(status.phase, Phase::Exited(_));
            if there {
                status.resized = Some(Resources(now));
            }
            there
        })
        .await
        .map(drop)
}

/// The least memory limit of a container. The configuration may have lost its handler since.
fn least(rt: &Runtime, container: &Container) -> u64 {
    let pod = rt.index.sandbox(&container.record.sandbox_id);
    let handler = pod.and_then(|pod| rt.handler(pod.record.handler()));
    handler.map_or(rt.config.runtime.container_min_memory, |handler| handler.min_memory)
}

/// As at the creation. A limit that the container has already is no new one: the kubelet sends it along with every other
/// change, and the key may have been raised since. Pure.
fn least_memory(
    had: &cri::LinuxContainerResources,
    wanted: &cri::LinuxContainerResources,
    least: u64,
) -> Result<(), Error> {
    if wanted.memory_limit_in_bytes == had.memory_limit_in_bytes {
        return Ok(());
    }
    resources::check_memory(Some(wanted), least)
}

/// The resources that a container has now, as they were asked for.
pub(crate) fn effective(container: &Container) -> Result<Option<cri::LinuxContainerResources>, Error> {
    if let Some(resized) = container.with_status(|s| s.resized.clone()) {
        return Ok(Some(resized.0));
    }
    let linux = container.config()?.linux.as_ref();
    Ok(linux.and_then(|linux| linux.resources.clone()))
}

/// `wanted` over `had`. Pure.
pub(crate) fn merged(
    had: &cri::LinuxContainerResources,
    wanted: &cri::LinuxContainerResources,
) -> Result<cri::LinuxContainerResources, Error> {
    let number = |new: i64, old: i64| if new == 0 { old } else { new };
    let text = |new: &String, old: &String| if new.is_empty() { old.clone() } else { new.clone() };
    let memory = number(wanted.memory_limit_in_bytes, had.memory_limit_in_bytes);
    let mut now = cri::LinuxContainerResources {
        cpu_period: number(wanted.cpu_period, had.cpu_period),
        cpu_quota: number(wanted.cpu_quota, had.cpu_quota),
        cpu_shares: number(wanted.cpu_shares, had.cpu_shares),
        memory_limit_in_bytes: memory,
        oom_score_adj: number(wanted.oom_score_adj, had.oom_score_adj),
        cpuset_cpus: text(&wanted.cpuset_cpus, &had.cpuset_cpus),
        cpuset_mems: text(&wanted.cpuset_mems, &had.cpuset_mems),
        hugepage_limits: had.hugepage_limits.clone(),
        unified: had.unified.clone(),
        memory_swap_limit_in_bytes: swap(had, wanted, memory),
    };
    for limit in &wanted.hugepage_limits {
        now.hugepage_limits.retain(|old| old.page_size != limit.page_size);
        now.hugepage_limits.push(limit.clone());
    }
    now.unified
        .extend(wanted.unified.iter().map(|(key, value)| (key.clone(), value.clone())));
    if now.memory_swap_limit_in_bytes > 0 && memory == -1 {
        return Err(Error::invalid(format!(
            "memory_swap_limit_in_bytes {} without a memory limit",
            now.memory_swap_limit_in_bytes
        )));
    }
    Ok(now)
}

/// The limit of memory and swap that goes with `memory`. A container that had no swap has none at its new size either.
fn swap(had: &cri::LinuxContainerResources, wanted: &cri::LinuxContainerResources, memory: i64) -> i64 {
    let old = had.memory_swap_limit_in_bytes;
    let had_none = old > 0 && old == had.memory_limit_in_bytes;
    match wanted.memory_swap_limit_in_bytes {
        0 if memory == -1 => -1,
        // It was -1 only because memory had no limit.
        0 if had.memory_limit_in_bytes == -1 && old == -1 => 0,
        0 if had_none => memory,
        0 => old,
        asked => asked,
    }
}

/// Sets the score of every process that the container has now; those they make inherit it.
fn score_all(group: &cgroup::Cgroup, score: i32, container: &Container) -> Result<(), Error> {
    let pids = group
        .procs()
        .map_err(|e| Error::at("list the processes of", format!("container {}", container.id), &e))?;
    for pid in pids {
        let path = format!("/proc/{pid}/oom_score_adj");
        match fs::write(&path, score.to_string()) {
            Ok(()) => {}
            // It has ended meanwhile (ESRCH where it is a zombie's file that was opened).
            Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(ESRCH) => {}
            // As when a container is made: a host that withholds CAP_SYS_RESOURCE lets nobody lower a score.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                tracing::info!(container = %container.id, score, "the host withholds something: a lower oom_score_adj");
                return Ok(());
            }
            Err(e) => return Err(Error::at("write", path, &e)),
        }
    }
    Ok(())
}

const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> cri::LinuxContainerResources {
        cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            cpuset_cpus: "0".into(),
            unified: [("memory.high".to_owned(), "max".to_owned())].into(),
            hugepage_limits: vec![cri::HugepageLimit {
                page_size: "2MB".into(),
                limit: 0,
            }],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_not_asked_for_stays() {
        assert_eq!(
            merged(&base(), &cri::LinuxContainerResources::default()).unwrap(),
            base()
        );
        let wanted = cri::LinuxContainerResources {
            cpu_quota: 20_000,
            unified: [("memory.low".to_owned(), "1".to_owned())].into(),
            hugepage_limits: vec![cri::HugepageLimit {
                page_size: "1GB".into(),
                limit: 1 << 30,
            }],
            ..Default::default()
        };
        let now = merged(&base(), &wanted).unwrap();
        assert_eq!(
            (now.cpu_quota, now.cpu_shares, now.memory_limit_in_bytes),
            (20_000, 512, 64 << 20)
        );
        assert_eq!((now.unified.len(), now.hugepage_limits.len()), (2, 2));
    }

    #[test]
    fn a_new_memory_limit_must_let_the_container_live() {
        let limit = |bytes: i64| cri::LinuxContainerResources {
            memory_limit_in_bytes: bytes,
            ..Default::default()
        };
        for (had, wanted, is_fine) in [
            (500, 100, true),
            (500, 99, false),
            (0, 99, false),
            (50, 60, false),
            // It has it, or is not asked to change it, or is to have none.
            (50, 50, true),
            (50, 0, true),
            (50, -1, true),
        ] {
            let checked = least_memory(&limit(had), &limit(wanted), 100);
            assert_eq!(checked.is_ok(), is_fine, "{had} {wanted}");
        }
        least_memory(&limit(500), &limit(1), 0).unwrap();
    }

    #[test]
    fn swap_follows_memory_unless_it_was_asked_for() {
        let with = |limit: i64, swap: i64| cri::LinuxContainerResources {
            memory_limit_in_bytes: limit,
            memory_swap_limit_in_bytes: swap,
            ..Default::default()
        };
        let after = |had: (i64, i64), wanted: (i64, i64)| {
            let now = merged(&with(had.0, had.1), &with(wanted.0, wanted.1)).unwrap();
            (now.memory_limit_in_bytes, now.memory_swap_limit_in_bytes)
        };
        assert_eq!(after((64, 0), (128, 0)), (128, 0));
        assert_eq!(after((64, 64), (128, 0)), (128, 128));
        assert_eq!(after((64, 100), (80, 0)), (80, 100));
        assert_eq!(after((64, 0), (128, 256)), (128, 256));
        assert_eq!(after((64, 0), (-1, 0)), (-1, -1));
        assert_eq!(after((-1, -1), (64, 0)), (64, 0));
        assert!(merged(&with(64, 0), &with(-1, 100)).is_err());
    }

    #[test]
    fn what_has_no_meaning_here_is_refused() {
        let request = cri::UpdateContainerResourcesRequest {
            linux: Some(base()),
            ..Default::default()
        };
        assert_eq!(wanted(request.clone()).unwrap(), base());
        for bad in [
            cri::UpdateContainerResourcesRequest {
                linux: None,
                ..request.clone()
            },
            cri::UpdateContainerResourcesRequest {
                windows: Some(cri::WindowsContainerResources::default()),
                ..request.clone()
            },
            cri::UpdateContainerResourcesRequest {
                annotations: [("a".to_owned(), "b".to_owned())].into(),
                ..request
            },
        ] {
            assert_eq!(wanted(bad).unwrap_err().kind(), spec::Kind::InvalidArgument);
        }
    }
}
