//! PodSandboxStats and ListPodSandboxStats: the pod's cgroup, the links of its network namespace, its processes and its
//! containers.
//!
//! The list has the pods that are ready. A part that cannot be read is left out: never an error for all.

use std::sync::{Arc, PoisonError};

use cni_netlink::link::Counters;
use proto::cri;

use super::list::selects;
use super::network::IFNAME;
use super::traffic;
use crate::container::stats as containers;
use crate::error::Error;
use crate::kept::Group;
use crate::runtime::Runtime;
use crate::store::records::SandboxPhase;
use crate::store::sandbox::Sandbox;
use crate::{blocking, clock};

/// Answers PodSandboxStats. A pod that is not ready has its attributes alone.
pub(crate) async fn one(rt: &Arc<Runtime>, id: &str) -> Result<cri::PodSandboxStatsResponse, Error> {
    let sandbox = rt.index.sandbox(id)?;
    let mut all = gather(rt, vec![sandbox]).await?;
    Ok(cri::PodSandboxStatsResponse { stats: all.pop() })
}

/// Answers ListPodSandboxStats.
pub(crate) async fn list(
    rt: &Arc<Runtime>,
    filter: Option<cri::PodSandboxStatsFilter>,
) -> Result<Vec<cri::PodSandboxStats>, Error> {
    let filter = filter.unwrap_or_default();
    let mut wanted = ready(rt);
    wanted.retain(|pod| {
        pod.id.as_str().starts_with(&filter.id)
            && pod.config().is_ok_and(|c| selects(&filter.label_selector, &c.labels))
    });
    gather(rt, wanted).await
}

/// The pods that have something to be measured.
pub(crate) fn ready(rt: &Runtime) -> Vec<Arc<Sandbox>> {
    let mut pods = rt.index.sandboxes();
    pods.retain(|pod| pod.phase() == SandboxPhase::Ready);
    pods
}

async fn gather(rt: &Arc<Runtime>, pods: Vec<Arc<Sandbox>>) -> Result<Vec<cri::PodSandboxStats>, Error> {
    let pods = with_links(rt, pods).await?;
    let rt = Arc::clone(rt);
    crate::spread(pods, Vec::new, move |buffer, pod| {
        let links = traffic::read(&pod, buffer);
        stats(&rt, &pod, links)
    })
    .await
}

/// The same pods, each with a way to its traffic where it has any.
pub(crate) async fn with_links(rt: &Arc<Runtime>, pods: Vec<Arc<Sandbox>>) -> Result<Vec<Arc<Sandbox>>, Error> {
    if !traffic::is_wanted(&pods) {
        return Ok(pods);
    }
    let rt = Arc::clone(rt);
    blocking(move || traffic::open(&rt.kept, &pods).map(|()| pods)).await
}

fn stats(rt: &Runtime, pod: &Sandbox, links: Option<Vec<Counters>>) -> Result<cri::PodSandboxStats, Error> {
    let config = pod.config()?;
    let attributes = cri::PodSandboxAttributes {
        id: pod.record.id.clone(),
        metadata: config.metadata.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
    };
    let linux = (pod.phase() == SandboxPhase::Ready).then(|| linux(rt, pod, links));
    Ok(cri::PodSandboxStats {
        attributes: Some(attributes),
        linux,
        windows: None,
    })
}

fn linux(rt: &Runtime, pod: &Sandbox, links: Option<Vec<Counters>>) -> cri::LinuxPodSandboxStats {
    let now = clock::strictly_later();
    let containers = rt.index.containers_of(&pod.id);
    let mut stats = cri::LinuxPodSandboxStats {
        network: links.map(|links| network(&links, now)),
        containers: containers::readable(rt, containers.iter()),
        ..Default::default()
    };
    let read = || -> Result<_, cgroup::Error> {
        let below: Vec<_> = containers.iter().filter_map(|one| one.cgroup()).collect();
        let below: Vec<&cgroup::Cgroup> = below.iter().map(|one| &***one).collect();
        measured(rt, pod, |group| {
            Ok((group.stats()?, group.pressures()?, group.count(&below)?))
        })
    };
    match read() {
        Ok((used, pressures, processes)) => {
            let usage = containers::usage(&used, &pressures, (&pod.sample, pod.record.created_at), now);
            stats.cpu = usage.cpu;
            stats.memory = Some(usage.memory);
            stats.io = usage.io;
            stats.process = Some(cri::ProcessUsage {
                timestamp: now,
                process_count: Some(cri::UInt64Value {
                    value: processes as u64,
                }),
            });
        }
        Err(error) => {
            let error = crate::error::chain_of(&error);
            tracing::debug!(pod = %pod.id, error, "its cgroup cannot be read");
        }
    }
    stats
}

/// What `read` reads of the pod's cgroup, which is kept open while the pod is ready.
fn measured<T>(
    rt: &Runtime,
    pod: &Sandbox,
    read: impl Fn(&Group) -> Result<T, cgroup::Error>,
) -> Result<T, cgroup::Error> {
    let kept = || pod.group.lock().unwrap_or_else(PoisonError::into_inner);
    let known = kept().clone();
    if let Some(group) = known {
        match read(&group) {
            // The kubelet removed it and made it again.
            Err(error) if error.kind() == spec::Kind::NotFound => *kept() = None,
            other => return other,
        }
    }
    let group = Arc::new(Group::open(&rt.cgroups, &rt.kept, &pod.record.cgroup)?);
    let outcome = read(&group)?;
    if pod.phase() == SandboxPhase::Ready {
        *kept() = Some(group);
    }
    Ok(outcome)
}

fn network(links: &[Counters], now: i64) -> cri::NetworkUsage {
    let usage = |link: &Counters| {
        let number = |value| Some(cri::UInt64Value { value });
        cri::NetworkInterfaceUsage {
            name: link.name.clone(),
            rx_bytes: number(link.rx_bytes),
            rx_errors: number(link.rx_errors),
            tx_bytes: number(link.tx_bytes),
            tx_errors: number(link.tx_errors),
        }
    };
    cri::NetworkUsage {
        timestamp: now,
        default_interface: links.iter().find(|link| link.name == IFNAME).map(usage),
        interfaces: links.iter().filter(|link| link.name != IFNAME).map(usage).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_own_link_is_the_default_one() {
        let link = |name: &str, rx_bytes| Counters {
            name: name.into(),
            rx_bytes,
            ..Default::default()
        };
        let usage = network(&[link("net1", 5), link("eth0", 7)], 1);
        let default = usage.default_interface.unwrap();
        assert_eq!((default.name.as_str(), default.rx_bytes.unwrap().value), ("eth0", 7));
        assert_eq!(usage.interfaces.len(), 1);
        assert_eq!(usage.interfaces[0].name, "net1");
        assert_eq!(network(&[], 1).default_interface, None);
    }
}
