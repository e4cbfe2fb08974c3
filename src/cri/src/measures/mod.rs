//! ListMetricDescriptors and ListPodSandboxMetrics: what cAdvisor told, from the cgroups, namespaces and processes that
//! we have anyway (KEP 2371). Read when somebody asks: nothing is kept, so nothing goes stale.
//!
//! The traffic of a pod is the pod's, under the name that it has had since pods had a pause container: `container="POD"`.

mod container;
mod processes;
mod sink;
mod table;

use std::sync::Arc;

use cni_netlink::link::Counters;
use proto::cri;

use self::container::Filesystem;
use self::sink::Sink;
use self::table as t;
use crate::clock;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::sandbox::stats::{ready, with_links};
use crate::sandbox::traffic;
use crate::store::sandbox::Sandbox;

pub(crate) use table::descriptors;

/// Answers ListPodSandboxMetrics: the pods that are ready, and of their containers those that run.
pub(crate) async fn list(rt: &Arc<Runtime>) -> Result<Vec<cri::PodSandboxMetrics>, Error> {
    let pods = with_links(rt, ready(rt)).await?;
    let filesystem = container::filesystem(&rt.paths.snapshots())?;
    let rt = Arc::clone(rt);
    crate::spread(pods, Vec::new, move |buffer, pod| {
        let links = traffic::read(&pod, buffer).unwrap_or_default();
        measure(&rt, &pod, links, filesystem)
    })
    .await
}

fn measure(
    rt: &Runtime,
    pod: &Sandbox,
    links: Vec<Counters>,
    filesystem: Filesystem,
) -> Result<cri::PodSandboxMetrics, Error> {
    let metadata = pod.config()?.metadata.clone().unwrap_or_default();
    let names = (metadata.namespace.as_str(), metadata.name.as_str());
    let now = clock::strictly_later();
    let running = rt.index.containers_of(&pod.id).into_iter();
    let running = running.filter(|container| container.with_status(|status| status.is_running()));
    let measured = running.filter_map(|one| match container::measure(rt, &one, filesystem, names, now) {
        Ok(metrics) => Some(metrics),
        Err(error) => {
            tracing::debug!(container = %one.id, %error, "left out of the metrics");
            None
        }
    });
    Ok(cri::PodSandboxMetrics {
        pod_sandbox_id: pod.record.id.clone(),
        metrics: network(pod, names, &links, now),
        container_metrics: measured.collect(),
    })
}

fn network(pod: &Sandbox, (namespace, name): (&str, &str), links: &[Counters], now: i64) -> Vec<cri::Metric> {
    let base = [
        pod.record.id.clone(),
        String::new(),
        namespace.to_owned(),
        name.to_owned(),
        "POD".to_owned(),
    ];
    let mut sink = Sink::new(base, now);
    for link in links {
        for (measure, value) in [
            (&t::RX_BYTES, link.rx_bytes),
            (&t::RX_PACKETS, link.rx_packets),
            (&t::RX_DROPPED, link.rx_dropped),
            (&t::RX_ERRORS, link.rx_errors),
            (&t::TX_BYTES, link.tx_bytes),
            (&t::TX_PACKETS, link.tx_packets),
            (&t::TX_DROPPED, link.tx_dropped),
            (&t::TX_ERRORS, link.tx_errors),
        ] {
            sink.put(measure, &[&link.name], Some(value));
        }
    }
    sink.metrics()
}
