//! One caller: latencies; and what 30 idle pods cost.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use e2e::catalog::BUSYBOX;
use e2e::config::pod_in_cgroup;
use e2e::cri::Cri;
use e2e::{Node, container, leak};

use super::{Pair, Row, Scale, row};

/// What the container of every measurement runs; found again by these words.
const PROGRAM: [&str; 2] = ["sleep", "100000"];

pub(crate) fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

/// The times of one pod's life.
#[derive(Debug, Default)]
struct Life {
    run: f64,
    create: f64,
    start: f64,
    exec: f64,
    down: f64,
}

async fn life(node: &Node, cri: &Cri) -> Result<Life> {
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
        row("pod_up", "ms", pick(|life| life.run + life.create + life.start)),
        row("pod_down", "ms", pick(|life| life.down)),
        row("exec_sync", "ms", pick(|life| life.exec)),
    ])
}

/// ListContainerStats at 30 pods; memory for each pod; the daemon's RSS.
pub(crate) async fn thirty(pair: &Pair, scale: Scale) -> Result<Vec<Row>> {
    const PODS: usize = 30;
    let clients = pair.both().map(Node::cri);
    for (node, cri) in pair.both().into_iter().zip(&clients) {
        cri.pull(BUSYBOX).await?;
        for number in 0..PODS {
            let config = pod_in_cgroup(node, &format!("idle-{number}"));
            let id = cri.run_pod(&config).await?;
            cri.run(&id, &container("main", BUSYBOX, &PROGRAM), &config).await?;
        }
    }
    // What was started settles.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let mut stats: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..scale.samples.div_ceil(10) {
        for (cri, samples) in clients.iter().zip(&mut stats) {
            for _ in 0..10 {
                let begin = Instant::now();
                let list = cri.stats_list(None).await?;
                samples.push(milliseconds(begin));
                anyhow::ensure!(
                    list.len() == PODS,
                    "{} of {PODS} containers in the statistics",
                    list.len()
                );
            }
        }
    }
    let mut memory: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let mut daemon: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for (at, node) in pair.both().into_iter().enumerate() {
        memory[at].push(overhead(node)? / PODS as f64);
        let status = format!("/proc/{}/status", node.daemon_pid().context("no server")?);
        daemon[at].push(megabytes(Path::new(&status), "VmRSS:")?);
    }
    for cri in &clients {
        cri.remove_everything().await?;
    }
    Ok(vec![
        row("container_stats_30", "ms", stats),
        row("memory_per_pod", "MB", memory),
        row("daemon_rss_30", "MB", daemon),
    ])
}

/// PSS of every process of a node that is neither the server, nor the registry, nor a container's own program.
fn overhead(node: &Node) -> Result<f64> {
    let mut sum = 0.0;
    for process in leak::living(node.init()) {
        let own = process.command == PROGRAM.join(" ");
        let server = process.comm == "bulkhead" || process.comm == "containerd" || process.comm == "docker-registry";
        if !own && !server {
            sum += megabytes(
                &node.inside(Path::new(&format!("/proc/{}/smaps_rollup", process.pid))),
                "Pss:",
            )?;
        }
    }
    Ok(sum)
}

/// A value in kB of a file in `/proc/PID`, as MB.
fn megabytes(path: &Path, key: &str) -> Result<f64> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .with_context(|| format!("no {key} in {}", path.display()))?;
    let kilobytes: f64 = value.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes / 1024.0)
}
