//! Bulkhead and containerd with runc, measured alternately in one run: the same machine, the
//! same images, the same CRI calls from this one client. `hack/bench` builds what it needs.
//!
//! Both servers run the whole time, each in namespaces of its own; a measurement takes a
//! few samples of one, then of the other, and again, so that whatever else the machine
//! does falls on both alike. While pods come up on a node that fills, the other server and its pods
//! are frozen (`many`). A ratio above 1 means that Bulkhead is better.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod alone;
mod load;
mod many;
mod measure;
mod plot;
mod report;
mod trace;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::engine::Engine;
use e2e::{Node, Options, places, run};

use plot::Growth;
use report::{Alone, Report, Row};

/// Between two servers' turns: what the kernel takes down later of the pods of one would be in the way of the other's first,
/// and whoever stood still has some catching up to do with its timers.
const SETTLE: Duration = Duration::from_millis(400);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// Samples of each latency.
    samples: usize,
    /// Seconds of each throughput window.
    window: u64,
    /// Windows, and pulls, of each.
    rounds: usize,
    /// MB written to a log.
    log: usize,
    /// How many pods there are when lists and statistics are asked for.
    levels: &'static [usize],
}

const QUICK: Scale = Scale {
    samples: 24,
    window: 4,
    rounds: 2,
    log: 64,
    levels: &[30, 100],
};
const FULL: Scale = Scale {
    samples: 120,
    window: 12,
    rounds: 5,
    log: 256,
    levels: &[10, 30, 100, 200, 300],
};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut scale, mut json, mut only) = (FULL, None, None);
    let (mut is_trace, mut wish) = (false, trace::Wish { pods: 0, lives: 1 });
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => scale = QUICK,
            "--trace" => is_trace = true,
            "--pods" => wish.pods = arguments.next().context("--pods wants a number")?.parse()?,
            "--lives" => wish.lives = arguments.next().context("--lives wants a number")?.parse()?,
            "--json" => json = Some(arguments.next().context("--json wants a file")?),
            "--only" => only = Some(arguments.next().context("--only wants the beginning of a row's name")?),
            _ => bail!("usage: bench [--quick] [--json FILE] [--only ROW] | --trace [--pods N] [--lives N]"),
        }
    }
    if is_trace {
        return run::runtime()?.block_on(trace::trace(&trace::directory(), wish));
    }
    let report = run::runtime()?.block_on(all(scale, only.as_deref().unwrap_or_default()))?;
    print!("{}", report.table());
    if let Some(path) = json {
        std::fs::write(&path, report.json()?).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

/// The two servers under test.
struct Pair {
    bulkhead: Node,
    peer: Node,
}

impl Pair {
    async fn start() -> Result<Self> {
        let options = |engine| Options {
            engine,
            quiet: true,
            // So that one can be frozen.
            accounted: true,
            ..Options::default()
        };
        let peer = Node::start(options(Engine::Containerd))
            .await
            .context("start containerd")?;
        let bulkhead = Node::start(options(Engine::Bulkhead)).await.context("start Bulkhead")?;
        Ok(Self { bulkhead, peer })
    }

    /// Both, by turns.
    fn both(&self) -> [&Node; 2] {
        [&self.bulkhead, &self.peer]
    }

    fn both_mut(&mut self) -> [&mut Node; 2] {
        [&mut self.bulkhead, &mut self.peer]
    }
}

async fn all(scale: Scale, only: &str) -> Result<Report> {
    let mut pair = Pair::start().await?;
    let (mut report, mut growth) = (Report::default(), Growth::default());
    let wanted = |names: &[&str]| names.iter().any(|name| name.starts_with(only));
    if wanted(&[
        "pod_run",
        "container_create",
        "container_start",
        "pod_up",
        "pod_down",
        "exec_sync",
    ]) {
        eprintln!("latencies: {} samples of each", scale.samples);
        report.extend(measure::latencies(&pair, scale).await?);
    }
    if wanted(&["pods_per_second"]) {
        eprintln!("throughput: 10 callers, {} windows of {} s", scale.rounds, scale.window);
        report.push(load::pods_per_second(&pair, scale).await?);
    }
    if wanted(&["pod_run_reference"]) {
        eprintln!("the same plugins under both: {} samples", scale.samples);
        report.push(measure::same_plugins(&pair, scale).await?);
    }
    if wanted(&["kernel_alone_up", "kernel_alone_down"]) {
        eprintln!("the kernel alone: {} rounds", scale.samples);
        report.alone(alone::alone(&pair.bulkhead, scale, None).await?);
    }
    if wanted(&[
        "version_100",
        "list_containers_100",
        "list_pods_100",
        "container_stats_30",
        "pod_stats_30",
        "memory_per_pod",
        "daemon_rss_30",
        "idle_wakeups_100",
        "start",
    ]) {
        eprintln!("a node that fills: {:?} pods", scale.levels);
        let (rows, alone) = many::many(&mut pair, scale, &mut growth).await?;
        report.extend(rows);
        report.alone(alone);
    }
    if wanted(&["growth_300", "growth_100"]) {
        eprintln!("how the way up grows, on each server alone");
        report.push(many::grows(&pair, scale, &mut growth).await?);
    }
    growth.write(&places::tree().join("target/bench"))?;
    if wanted(&["pull_gzip", "pull_zstd", "pull_peak"]) {
        eprintln!("pulls of 1 GB in 6 layers, {} of each", scale.rounds);
        report.extend(load::pulls(&pair, scale, only).await?);
    }
    if wanted(&["logs"]) {
        eprintln!("logs: {} MB", scale.log);
        report.push(load::logs(&pair, scale).await?);
    }
    for node in [pair.bulkhead, pair.peer] {
        node.finish().await?;
    }
    Ok(report)
}

/// Samples of both, and what they are called.
fn row(name: impl Into<String>, unit: &'static str, samples: [Vec<f64>; 2]) -> Row {
    Row::new(name, unit, samples)
}
