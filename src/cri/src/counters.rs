//! What is counted for Prometheus, and what is looked up when somebody scrapes: pods and containers by state, network
//! plugins, image pulls, OOM kills, events that readers lost.
//!
//! Every metric here is moved by the case `metrics_all_move` of e2e, which fails for one that stays at zero.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use proto::cri;

use crate::monitor::client;
use crate::runtime::Runtime;
use crate::store::records::Phase;

type Label = [(&'static str, &'static str); 1];

/// 1 ms to 2 min: our own plugins take the first few, a pull may take the last.
const SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 120.0,
];

/// The counters.
#[derive(Debug, Clone)]
pub(crate) struct Counters {
    ended: Family<Label, Counter>,
    lost: Counter,
    joined: Family<Label, Counter>,
    network: Family<Label, Counter>,
    network_errors: Family<Label, Counter>,
    network_seconds: Family<Label, Histogram, fn() -> Histogram>,
    pulls: Family<Label, Counter>,
    pull_failures: Family<Label, Counter>,
    pulls_now: Gauge,
    pull_seconds: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            ended: Family::default(),
            lost: Counter::default(),
            joined: Family::default(),
            network: Family::default(),
            network_errors: Family::default(),
            network_seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            pulls: Family::default(),
            pull_failures: Family::default(),
            pulls_now: Gauge::default(),
            pull_seconds: Histogram::new(SECONDS),
        }
    }
}

impl Counters {
    /// A container ended.
    pub(crate) fn ended(&self, reason: &'static str) {
        self.ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// A monitor went without an exit record.
    pub(crate) fn monitor_lost(&self) {
        self.lost.inc();
    }

    /// A request found the same one under way, and waits with it.
    pub(crate) fn joined(&self, operation: &'static str) {
        self.joined.get_or_create(&[("operation", operation)]).inc();
    }

    /// Runs a call of the network plugins and counts it.
    pub(crate) async fn network<T, E>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let label = [("operation", operation)];
        let begun = Instant::now();
        let outcome = call.await;
        self.network.get_or_create(&label).inc();
        self.network_seconds
            .get_or_create(&label)
            .observe(begun.elapsed().as_secs_f64());
        if outcome.is_err() {
            self.network_errors.get_or_create(&label).inc();
        }
        outcome
    }

    /// Runs a pull and counts it, also where its caller gives it up.
    pub(crate) async fn pull<T>(&self, pull: impl Future<Output = Result<T, image::Error>>) -> Result<T, image::Error> {
        let begun = Instant::now();
        let mut under_way = UnderWay::new(self);
        let outcome = pull.await;
        under_way.ended = true;
        self.pull_seconds.observe(begun.elapsed().as_secs_f64());
        let status = if outcome.is_ok() { "success" } else { "failure" };
        self.pulls.get_or_create(&[("status", status)]).inc();
        if let Err(error) = &outcome {
            self.pull_failures
                .get_or_create(&[("error", error.kind().name())])
                .inc();
        }
        outcome
    }

    fn register(&self, registry: &mut Registry) {
        // The text format adds _total to the names of counters.
        registry.register(
            "bulkhead_containers_ended",
            "Containers that ended, by reason",
            self.ended.clone(),
        );
        registry.register(
            "bulkhead_monitors_lost",
            "Monitors that went without an exit record",
            self.lost.clone(),
        );
        registry.register(
            "bulkhead_requests_joined",
            "Requests that found the same one under way, as after a deadline of the kubelet",
            self.joined.clone(),
        );
        registry.register(
            "bulkhead_network_plugin_operations",
            "Calls of network plugins",
            self.network.clone(),
        );
        registry.register(
            "bulkhead_network_plugin_operations_errors",
            "Calls of network plugins that failed",
            self.network_errors.clone(),
        );
        registry.register(
            "bulkhead_network_plugin_operations_duration_seconds",
            "Time that calls of network plugins took",
            self.network_seconds.clone(),
        );
        registry.register(
            "bulkhead_image_pulls",
            "Pulls that ended, by outcome",
            self.pulls.clone(),
        );
        registry.register(
            "bulkhead_image_pulls_failure",
            "Pulls that failed, by kind of error",
            self.pull_failures.clone(),
        );
        registry.register(
            "bulkhead_image_pulls_in_progress",
            "Pulls that callers wait for now",
            self.pulls_now.clone(),
        );
        registry.register(
            "bulkhead_image_pull_duration_seconds",
            "Time that pulls took",
            self.pull_seconds.clone(),
        );
    }
}

/// A pull that somebody waits for. Dropped unfinished, it was given up.
struct UnderWay<'a> {
    counters: &'a Counters,
    ended: bool,
}

impl<'a> UnderWay<'a> {
    fn new(counters: &'a Counters) -> Self {
        counters.pulls_now.inc();
        Self { counters, ended: false }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.counters.pulls_now.dec();
        if !self.ended {
            self.counters.pulls.get_or_create(&[("status", "given up")]).inc();
        }
    }
}

impl Runtime {
    /// Adds what this runtime counts to `registry`.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        self.counters.register(registry);
        registry.register_collector(Box::new(Looked(Arc::downgrade(self))));
    }
}

/// What is looked up when somebody scrapes.
#[derive(Debug)]
struct Looked(Weak<Runtime>);

impl Collector for Looked {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(rt) = self.0.upgrade() else { return Ok(()) };
        let pods = rt.index.sandboxes();
        let ready = pods
            .iter()
            .filter(|pod| pod.state() == cri::PodSandboxState::SandboxReady)
            .count();
        states(
            &mut encoder,
            ("bulkhead_pods", "Pods by state"),
            [("ready", ready), ("notready", pods.len() - ready)],
        )?;
        let mut counts = [("created", 0), ("running", 0), ("exited", 0)];
        for container in rt.index.containers() {
            let at = container.with_status(|status| match status.phase {
                Phase::Creating | Phase::Created => 0,
                Phase::Running { .. } => 1,
                Phase::Exited(_) => 2,
            });
            counts[at].1 += 1;
        }
        states(&mut encoder, ("bulkhead_containers", "Containers by state"), counts)?;
        let handler = rt.config.runtime.default_handler.clone();
        let mut family = encoder.encode_descriptor(
            "bulkhead_default_handler",
            "The handler of pods that name none",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(1_i64).encode(family.encode_family(&[("handler", handler)])?)?;
        let pulled = rt.images.figures();
        for (name, help, value) in [
            (
                "bulkhead_containers_oom",
                "Times that the OOM killer was at work in a container",
                client::ooms(),
            ),
            (
                "bulkhead_container_events_dropped",
                "Container events that slow readers lost",
                rt.events.dropped(),
            ),
            (
                "bulkhead_image_pulled_bytes",
                "Bytes of layers as registries sent them",
                pulled.bytes,
            ),
            (
                "bulkhead_image_layers_pulled",
                "Layers that were fetched",
                pulled.fetched,
            ),
            (
                "bulkhead_image_layers_reused",
                "Layers that were here already",
                pulled.reused,
            ),
            (
                "bulkhead_image_pulls_skipped_bytes",
                "Bytes that need not be fetched, for the layer was here",
                pulled.skipped_bytes,
            ),
            (
                "bulkhead_image_pulls_unchanged",
                "Pulls of an image that was here already",
                pulled.unchanged,
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        layer_sizes(&mut encoder, &pulled)?;
        let defunct = ConstGauge::new(defunct());
        let (name, help) = ("bulkhead_processes_defunct", "Processes that nobody waited for");
        defunct.encode(encoder.encode_descriptor(name, help, None, defunct.metric_type())?)
    }
}

/// The layers that were fetched, by size.
fn layer_sizes(encoder: &mut DescriptorEncoder<'_>, pulled: &image::Figures) -> Result<(), fmt::Error> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "the bounds are powers of two, and a sum of bytes may be rounded"
    )]
    let number = |bytes: u64| bytes as f64;
    let bounds = image::LAYER_SIZES.into_iter().map(number).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(pulled.sizes).collect();
    let (name, help) = ("bulkhead_image_layer_size_bytes", "Layers that were fetched, by size");
    encoder
        .encode_descriptor(name, help, None, MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(number(pulled.bytes), pulled.fetched, &buckets, None)
}

/// How many of the processes that are seen from here are zombies. One that goes meanwhile is none.
fn defunct() -> i64 {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let is_one = |entry: &std::fs::DirEntry| {
        let number = entry
            .file_name()
            .as_encoded_bytes()
            .first()
            .is_some_and(u8::is_ascii_digit);
        number && std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| is_zombie(&stat))
    };
    let count = processes.filter_map(Result::ok).filter(is_one).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// By proc_pid_stat(5); a program's name may hold any byte, a bracket too.
fn is_zombie(stat: &str) -> bool {
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z"))
}

fn states<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    counts: [(&'static str, usize); N],
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (state, count) in counts {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        ConstGauge::new(count).encode(family.encode_family(&[("state", state)])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    fn text(counters: &Counters) -> String {
        let mut registry = Registry::default();
        counters.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[tokio::test]
    async fn pulls_are_counted_by_how_they_ended() {
        let counters = Counters::default();
        counters.pull(async { Ok(()) }).await.unwrap();
        let refused = counters.pull(async { Err::<(), _>(image::Reference::parse("no such name!").unwrap_err()) });
        refused.await.unwrap_err();
        let never = counters.pull(std::future::pending::<Result<(), _>>());
        tokio::time::timeout(std::time::Duration::from_millis(5), never)
            .await
            .unwrap_err();
        let text = text(&counters);
        for line in [
            "bulkhead_image_pulls_total{status=\"success\"} 1",
            "bulkhead_image_pulls_total{status=\"failure\"} 1",
            "bulkhead_image_pulls_total{status=\"given up\"} 1",
            "bulkhead_image_pulls_failure_total{error=\"invalid_argument\"} 1",
            "bulkhead_image_pulls_in_progress 0",
            "bulkhead_image_pull_duration_seconds_count 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_zombie_is_told_by_its_state_whatever_its_name_is() {
        assert!(is_zombie("7 (sh) Z 1 7 7 0"));
        assert!(is_zombie("7 (a) S (b) Z 1 7 7 0"));
        assert!(!is_zombie("7 (a) Z) S 1 7 7 0"));
        assert!(!is_zombie(""));
    }

    #[tokio::test]
    async fn plugin_calls_are_counted_by_operation() {
        let counters = Counters::default();
        counters.network("set_up_pod", async { Ok::<_, ()>(()) }).await.unwrap();
        counters
            .network("set_up_pod", async { Err::<(), _>(()) })
            .await
            .unwrap_err();
        counters.ended("OOMKilled");
        counters.joined("RunPodSandbox");
        let text = text(&counters);
        for line in [
            "bulkhead_network_plugin_operations_total{operation=\"set_up_pod\"} 2",
            "bulkhead_network_plugin_operations_errors_total{operation=\"set_up_pod\"} 1",
            "bulkhead_network_plugin_operations_duration_seconds_count{operation=\"set_up_pod\"} 2",
            "bulkhead_containers_ended_total{reason=\"OOMKilled\"} 1",
            "bulkhead_requests_joined_total{operation=\"RunPodSandbox\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
