//! UpdatePodSandboxResources: what a pod is allowed as a whole.
//!
//! Noted, shown by the verbose status, and kept for the next daemon. The pod's cgroup is written only where it is ours:
//! one that the kubelet named it limits itself, before this call when a pod grows and after it when it shrinks (KEP
//! 5419), and two writers would undo one another's work.

use std::sync::Arc;

use proto::cri;
use spec::runtime::LinuxResources;

use super::plan::limits_are_ours;
use crate::container::plan::resources;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::records::{PodResources, Resources, SandboxPhase};
use crate::{detached, scope};

/// Changes a pod's resources.
pub(crate) async fn update(rt: &Arc<Runtime>, request: cri::UpdatePodSandboxResourcesRequest) -> Result<(), Error> {
    let sandbox = rt.index.sandbox(&request.pod_sandbox_id)?;
    let limits = limits(request.overhead.as_ref(), request.resources.as_ref())?;
    let rt = Arc::clone(rt);
    detached(async move {
        let _turn = sandbox.turn.lock().await;
        if sandbox.phase() != SandboxPhase::Ready {
            return Err(Error::precondition(format!("pod {} is not ready", sandbox.id)));
        }
        if sandbox.config()?.linux.as_ref().is_none_or(limits_are_ours) {
            scope::resize(&rt, &sandbox.record.cgroup, limits, &format!("pod {}", sandbox.id)).await?;
        }
        let resized = PodResources {
            overhead: request.overhead.map(Resources),
            resources: request.resources.map(Resources),
        };
        sandbox.update(&rt.db, |status| status.resized = Some(resized)).await
    })
    .await
}

/// The limits of a pod's cgroup that is ours. Pure.
pub(crate) fn limits(
    overhead: Option<&cri::LinuxContainerResources>,
    containers: Option<&cri::LinuxContainerResources>,
) -> Result<LinuxResources, Error> {
    for part in [overhead, containers].into_iter().flatten() {
        resources::resources(part)?;
    }
    resources::resources(&together(overhead, containers))
}

/// Overhead and containers in one. A quota or memory limit of -1 in either has no sum: the pod has none. Pure.
fn together(
    overhead: Option<&cri::LinuxContainerResources>,
    containers: Option<&cri::LinuxContainerResources>,
) -> cri::LinuxContainerResources {
    let empty = cri::LinuxContainerResources::default();
    let (a, b) = (overhead.unwrap_or(&empty), containers.unwrap_or(&empty));
    let sum = |x: i64, y: i64| if x < 0 || y < 0 { -1 } else { x.saturating_add(y) };
    cri::LinuxContainerResources {
        // Quotas are of the same period: the kubelet's.
        cpu_period: if b.cpu_period == 0 { a.cpu_period } else { b.cpu_period },
        cpu_quota: sum(a.cpu_quota, b.cpu_quota),
        cpu_shares: sum(a.cpu_shares, b.cpu_shares),
        memory_limit_in_bytes: sum(a.memory_limit_in_bytes, b.memory_limit_in_bytes),
        cpuset_cpus: b.cpuset_cpus.clone(),
        cpuset_mems: b.cpuset_mems.clone(),
        hugepage_limits: b.hugepage_limits.clone(),
        unified: b.unified.clone(),
        memory_swap_limit_in_bytes: sum(a.memory_swap_limit_in_bytes, b.memory_swap_limit_in_bytes),
        oom_score_adj: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_is_added_to_what_the_containers_have() {
        let part = |memory, quota| cri::LinuxContainerResources {
            memory_limit_in_bytes: memory,
            cpu_quota: quota,
            cpu_period: 100_000,
            ..Default::default()
        };
        let all = together(Some(&part(10, 1000)), Some(&part(100, 20_000)));
        assert_eq!(
            (all.memory_limit_in_bytes, all.cpu_quota, all.cpu_period),
            (110, 21_000, 100_000)
        );
        let all = together(Some(&part(10, 1000)), Some(&part(100, -1)));
        assert_eq!((all.memory_limit_in_bytes, all.cpu_quota), (110, -1));
        assert_eq!(together(None, None), cri::LinuxContainerResources::default());
    }
}
