//! E8: what a pod's network carries, in its statistics and its metrics.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, Node, container, test, wait};
use proto::cri as v1;

async fn network(bed: &Bed) -> Result<v1::NetworkInterfaceUsage> {
    let request = v1::PodSandboxStatsRequest {
        pod_sandbox_id: bed.pod.clone(),
    };
    let stats = bed
        .cri
        .runtime
        .clone()
        .pod_sandbox_stats(request)
        .await?
        .into_inner()
        .stats;
    let network = stats.and_then(|stats| stats.linux).and_then(|linux| linux.network);
    network
        .and_then(|network| network.default_interface)
        .context("no default interface")
}

async fn metric(bed: &Bed, name: &str) -> Result<v1::Metric> {
    let request = v1::ListPodSandboxMetricsRequest {};
    let pods = bed
        .cri
        .runtime
        .clone()
        .list_pod_sandbox_metrics(request)
        .await?
        .into_inner()
        .pod_metrics;
    let pod = pods
        .into_iter()
        .find(|pod| pod.pod_sandbox_id == bed.pod)
        .context("no metrics of the pod")?;
    pod.metrics
        .into_iter()
        .find(|metric| metric.name == name)
        .with_context(|| format!("no {name}"))
}

#[test]
fn e8_a_pods_traffic_is_counted_inside_its_namespace() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let command = ["httpd", "-f", "-p", "8080", "-h", "/"];
        bed.run(&container("main", BUSYBOX, &command)).await?;
        let (before, metric_before) = (
            network(&bed).await?,
            metric(&bed, "container_network_transmit_bytes_total").await?,
        );
        ensure!(before.name == "eth0", "{before:?}");
        let ip = bed.cri.pod_ip(&bed.pod).await?;
        // The answer may be that there is no such file: it comes over the network all the same.
        let asked = format!("for i in 1 2 3; do busybox wget -qO- http://{ip}:8080/; done; true");
        wait::until("the pod's traffic grows", Duration::from_secs(10), async || {
            node.sh(&asked)?;
            let sent = network(&bed).await?.tx_bytes.map_or(0, |value| value.value);
            Ok((sent > before.tx_bytes.map_or(0, |value| value.value) + 300).then_some(()))
        })
        .await?;
        let (after, metric_after) = (
            network(&bed).await?,
            metric(&bed, "container_network_transmit_bytes_total").await?,
        );
        let value = |value: Option<v1::UInt64Value>| value.map_or(0, |value| value.value);
        ensure!(
            value(after.tx_bytes) >= value(before.tx_bytes) + 300,
            "{before:?} {after:?}"
        );
        ensure!(
            value(after.rx_bytes) >= value(before.rx_bytes) + 300,
            "{before:?} {after:?}"
        );
        ensure!(
            value(metric_after.value) >= value(metric_before.value) + 300,
            "{metric_before:?} {metric_after:?}"
        );
        ensure!(
            metric_after.label_values == [&bed.pod, "", "e2e", "pod", "POD", "eth0"],
            "{metric_after:?}"
        );
        Ok(())
    });
}

#[test]
fn e8_a_pod_on_the_hosts_network_has_no_traffic_of_its_own() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| {
            let linux = config.linux.get_or_insert_default();
            let context = linux.security_context.get_or_insert_default();
            context.namespace_options.get_or_insert_default().network = v1::NamespaceMode::Node.into();
        })
        .await?;
        ensure!(network(&bed).await.is_err(), "the host's traffic is told as the pod's");
        Ok(())
    });
}

/// The server's descriptors that are sockets, or of the cgroup `name`.
fn held(node: &Node, name: &str) -> Result<(usize, usize)> {
    let (mut sockets, mut directories) = (0, 0);
    let pid = node.daemon_pid().context("no server")?;
    for fd in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One may be closed meanwhile.
        let link = std::fs::read_link(fd?.path()).unwrap_or_default();
        let link = link.to_string_lossy();
        sockets += usize::from(link.starts_with("socket:"));
        directories += usize::from(link.starts_with("/sys/fs/cgroup") && link.contains(name));
    }
    Ok((sockets, directories))
}

#[test]
fn e8_the_statistics_keep_nothing_of_a_pod_that_is_stopped() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let main = bed.run(&container("main", BUSYBOX, &["sleep", "1000"])).await?;
        let (sockets, directories) = held(node, &main)?;
        ensure!(directories == 0, "opened before anybody asked");
        for _ in 0..3 {
            ensure!(bed.cri.pod_stats_list().await?.len() == 1, "the pod is not measured");
            let (now, of_main) = held(node, &main)?;
            ensure!(
                now == sockets + 1 && of_main > 0,
                "{now} sockets after {sockets}, {of_main} directories"
            );
        }
        bed.cri.stop_pod(&bed.pod).await?;
        let after = held(node, &main)?;
        ensure!(after.0 < sockets && after.1 == 0, "{after:?} held of {sockets}");
        Ok(())
    });
}
