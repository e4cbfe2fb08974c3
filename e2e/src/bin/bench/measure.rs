//! One caller: latencies.

use std::time::Instant;

use anyhow::{Context, Result};
use e2e::catalog::BUSYBOX;
use e2e::config::pod_in_cgroup;
use e2e::cri::Cri;
use e2e::engine::Engine;
use e2e::node::Plugins;
use e2e::{Node, Options, container};

use super::{Pair, Row, SETTLE, Scale, row};

/// What the container of every measurement runs; found again by these words.
pub(crate) const PROGRAM: [&str; 2] = ["sleep", "100000"];

pub(crate) fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

/// The times of one pod's life.
#[derive(Debug, Default)]
pub(crate) struct Life {
    run: f64,
    create: f64,
    start: f64,
    exec: f64,
    pub(crate) down: f64,
}

impl Life {
    /// All three calls of the way up.
    pub(crate) fn up(&self) -> f64 {
        self.run + self.create + self.start
    }
}

pub(crate) async fn life(node: &Node, cri: &Cri) -> Result<Life> {
    let mut times = Life::default();
    let config = pod_in_cgroup(node, "bench");
    let main = container("main", BUSYBOX, &PROGRAM);
    let begin = Instant::now();
    let id = cri.run_pod(&config).await?;
    times.run = milliseconds(begin);
    let begin = Instant::now();
    let container = cri.create(&id, &main, &config).await?;
    times.create = milliseconds(begin);
    let begin = Instant::now();
    cri.start(&container).await?;
    times.start = milliseconds(begin);
    let begin = Instant::now();
    let output = cri.exec_with(&container, &["true"], 10).await?;
    times.exec = milliseconds(begin);
    anyhow::ensure!(output.code == 0, "exec ended with {}", output.code);
    let begin = Instant::now();
    cri.stop(&container, 0).await?;
    cri.remove(&container).await?;
    cri.stop_pod(&id).await?;
    cri.remove_pod(&id).await?;
    times.down = milliseconds(begin);
    Ok(times)
}

/// RunPodSandbox, CreateContainer, StartContainer, all three, the way down, ExecSync.
pub(crate) async fn latencies(pair: &Pair, scale: Scale) -> Result<Vec<Row>> {
    const BLOCK: usize = 6;
    let clients = pair.both().map(Node::cri);
    let mut lives: [Vec<Life>; 2] = [Vec::new(), Vec::new()];
    for (node, cri) in pair.both().into_iter().zip(&clients) {
        cri.pull(BUSYBOX).await.context("pull busybox")?;
        for _ in 0..3 {
            life(node, cri).await.context("warm up")?;
        }
    }
    for _ in 0..scale.samples.div_ceil(BLOCK) {
        for (at, node) in pair.both().into_iter().enumerate() {
            tokio::time::sleep(SETTLE).await;
            // The first finds the other's things in the caches, and what the kernel still takes down of its pods.
            life(node, &clients[at]).await?;
            for _ in 0..BLOCK {
                lives[at].push(life(node, &clients[at]).await?);
            }
        }
    }
    let pick = |of: fn(&Life) -> f64| [0, 1].map(|at: usize| lives[at].iter().map(of).collect::<Vec<f64>>());
    Ok(vec![
        row("pod_run", "ms", pick(|life| life.run)),
        row("container_create", "ms", pick(|life| life.create)),
        row("container_start", "ms", pick(|life| life.start)),
        row("pod_up", "ms", pick(Life::up)),
        row("pod_down", "ms", pick(|life| life.down)),
        row("exec_sync", "ms", pick(|life| life.exec)),
    ])
}

/// RunPodSandbox with the reference plugins under both.
pub(crate) async fn same_plugins(pair: &Pair, scale: Scale) -> Result<Row> {
    const BLOCK: usize = 6;
    let ours = Node::start(Options {
        engine: Engine::Bulkhead,
        plugins: Plugins::Reference,
        registry: false,
        quiet: true,
        ..Options::default()
    })
    .await
    .context("start Bulkhead with the reference plugins")?;
    let mut times: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for block in 0..=scale.samples.div_ceil(BLOCK) {
        for (node, times) in [&ours, &pair.peer].into_iter().zip(&mut times) {
            let cri = node.cri();
            tokio::time::sleep(SETTLE).await;
            for _ in 0..BLOCK {
                let config = pod_in_cgroup(node, "plugins");
                let begin = Instant::now();
                let id = cri.run_pod(&config).await?;
                // The first block warms up.
                if block > 0 {
                    times.push(milliseconds(begin));
                }
                cri.stop_pod(&id).await?;
                cri.remove_pod(&id).await?;
            }
        }
    }
    ours.finish().await?;
    Ok(row("pod_run_reference", "ms", times))
}
