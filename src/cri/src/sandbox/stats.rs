//! PodSandboxStats and ListPodSandboxStats: the pod's cgroup, the links of its network namespace, its processes and its
//! containers.
//!
//! The list has the pods that are ready. A part that cannot be read is left out: never an error for all.

use std::path::PathBuf;
use std::sync::Arc;

use cni_netlink::link::Counters;
use proto::cri;

use super::list::selects;
use super::network::IFNAME;
use super::traffic;
use crate::container::stats as containers;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::records::SandboxPhase;
use crate::store::sandbox::Sandbox;
use crate::{blocking, clock};

/// Answers PodSandboxStats. A pod that is not ready has its attributes alone.
pub(crate) async fn one(rt: &Arc<Runtime>, id: &str) -> Result<cri::PodSandboxStatsResponse, Error> {
    let sandbox = rt.index.sandbox(id)?;
    let rt = Arc::clone(rt);
    let mut all = blocking(move || gather(&rt, &[sandbox])).await?;
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
    let rt = Arc::clone(rt);
    blocking(move || gather(&rt, &wanted)).await
}

/// The pods that have something to be measured.
pub(crate) fn ready(rt: &Runtime) -> Vec<Arc<Sandbox>> {
    let mut pods = rt.index.sandboxes();
    pods.retain(|pod| pod.phase() == SandboxPhase::Ready);
    pods
}

/// The traffic of each pod; none for one on the host's network, or that is not ready.
pub(crate) fn traffic_of(pods: &[Arc<Sandbox>]) -> Result<Vec<Option<Vec<Counters>>>, Error> {
    let own = |pod: &Arc<Sandbox>| pod.phase() == SandboxPhase::Ready && !pod.host_network();
    let paths = pods
        .iter()
        .filter(|pod| own(pod))
        .map(|pod| PathBuf::from(&pod.record.netns));
    let mut read = traffic::read(paths.collect())?.into_iter();
    Ok(pods
        .iter()
        .map(|pod| if own(pod) { read.next().flatten() } else { None })
        .collect())
}

fn gather(rt: &Runtime, pods: &[Arc<Sandbox>]) -> Result<Vec<cri::PodSandboxStats>, Error> {
    let traffic = traffic_of(pods)?;
    pods.iter()
        .zip(traffic)
        .map(|(pod, links)| stats(rt, pod, links))
        .collect()
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
    let mut stats = cri::LinuxPodSandboxStats {
        network: links.map(|links| network(&links, now)),
        containers: containers::of_pod(rt, &pod.id),
        ..Default::default()
    };
    let read = || -> Result<_, cgroup::Error> {
        let group = rt.cgroups.open(&pod.record.cgroup)?;
        Ok((group.stats()?, group.pressures()?, group.procs()?.len()))
    };
    match read() {
        Ok((used, pressures, processes)) => {
            let usage = containers::usage(&used, &pressures, &pod.sample, now);
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
