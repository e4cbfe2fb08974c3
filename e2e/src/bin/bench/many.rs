//! A node that fills: both servers get the same pods, level by level, and at each level are asked
//! what the kubelet asks all the time. At the last the servers are started again beside them.
//!
//! How the way up grows is seen on each server alone: it fills the machine and empties it again while the other has no pod. The kernel goes through what it has of all pods of a machine (mounts, tasks, network namespaces), and would find
//! twice as many.
//!
//! While one server's pods come up, the other stands still with all that it started (`e2e::still`): its idle pods would take
//! of the processors.
//!
//! The time of an answer is that of its bytes: they are read by this client afterwards, outside of it, for the making of
//! some two thousand strings would be most of what a list costs, and the same for both.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use e2e::catalog::BUSYBOX;
use e2e::config::pod_in_cgroup;
use e2e::cri::Cri;
use e2e::still::Still;
use e2e::{Node, container, leak, raw};
use prost::Message as _;
use proto::cri as v1;

use super::measure::{PROGRAM, milliseconds};
use super::plot::Growth;
use super::report::median;
use super::{Alone, Pair, Row, SETTLE, Scale, alone, row};

/// Pods made of one server before the other has its turn; the growth row looks at their medians.
const BLOCK: usize = 10;

/// How often each server fills the machine for the growth row, whose times are the medians of each pod's. We do it in seconds, and
/// within some the machine itself gets slower or faster by a tenth and more.
const FILLS: [usize; 2] = [9, 1];

/// How long the idle servers are watched.
const IDLE: Duration = Duration::from_secs(10);

/// A question without a filter, which is an empty message.
struct Call {
    name: &'static str,
    method: &'static str,
    /// How many objects an answer has.
    count: fn(Bytes) -> Result<usize, prost::DecodeError>,
}

/// A call that answers next to nothing, in the rhythm of the lists: what any call costs here.
const EMPTY: &str = "version";

/// What is asked at every level.
static CALLS: [Call; 5] = [
    Call {
        name: EMPTY,
        method: "Version",
        count: |answer| v1::VersionResponse::decode(answer).map(|_| 0),
    },
    Call {
        name: "list_containers",
        method: "ListContainers",
        count: |answer| v1::ListContainersResponse::decode(answer).map(|all| all.containers.len()),
    },
    Call {
        name: "list_pods",
        method: "ListPodSandbox",
        count: |answer| v1::ListPodSandboxResponse::decode(answer).map(|all| all.items.len()),
    },
    Call {
        name: "container_stats",
        method: "ListContainerStats",
        count: |answer| v1::ListContainerStatsResponse::decode(answer).map(|all| all.stats.len()),
    },
    Call {
        name: "pod_stats",
        method: "ListPodSandboxStats",
        count: |answer| v1::ListPodSandboxStatsResponse::decode(answer).map(|all| all.stats.len()),
    },
];

/// Fills both and measures.
pub(crate) async fn many(pair: &mut Pair, scale: Scale, growth: &mut Growth) -> Result<(Vec<Row>, Vec<Alone>)> {
    let mut rows = Vec::new();
    for node in pair.both() {
        node.cri().pull(BUSYBOX).await?;
    }
    let last = scale.levels.last().copied().unwrap_or_default();
    let mut have = 0;
    for &level in scale.levels {
        fill(pair, have..level).await?;
        have = level;
        // What was started settles.
        tokio::time::sleep(Duration::from_secs(3)).await;
        for (call, samples) in CALLS.iter().zip(ask(pair, scale, level).await?) {
            let Some(samples) = samples else {
                eprintln!("{}: not answered by both, no row", call.name);
                continue;
            };
            if call.name != EMPTY {
                growth.asked(call.name, level, [0, 1].map(|at| median(&samples[at])));
            }
            if matches!(
                (call.name, level),
                (EMPTY | "list_containers" | "list_pods", 100) | ("container_stats" | "pod_stats", 30)
            ) {
                rows.push(row(format!("{}_{level}", call.name), "ms", samples));
            }
        }
        if level == 30 {
            rows.push(memory(pair, level)?);
        }
        if level == 30 || level == last {
            rows.push(rss(pair, level)?);
        }
        if level == 100 {
            rows.extend(idle(pair).await?);
        }
    }
    // How much of that the kernel takes by itself.
    let other = Still::new(&pair.peer).context("freeze the other server")?;
    tokio::time::sleep(SETTLE).await;
    let alone = alone::alone(&pair.bulkhead, scale, Some(last)).await?;
    other.end()?;
    rows.push(starts(pair, scale, last).await?);
    for node in pair.both() {
        node.cri().remove_everything().await?;
    }
    Ok((rows, alone))
}

/// How much longer the last pod takes than the first, on each server alone.
pub(crate) async fn grows(pair: &Pair, scale: Scale, growth: &mut Growth) -> Result<Row> {
    let last = scale.levels.last().copied().unwrap_or_default();
    for (at, node) in pair.both().into_iter().enumerate() {
        node.cri().pull(BUSYBOX).await?;
        let mut fills = Vec::new();
        for _ in 0..FILLS[at] {
            fills.push(grow(pair, at, last).await?);
        }
        for number in 0..last {
            let times: Vec<f64> = fills.iter().map(|fill| fill[number]).collect();
            growth.came_up(at, median(&times));
        }
    }
    Ok(slower(growth, last))
}

/// Brings one server to `last` pods and back to none; how long each took to come up.
async fn grow(pair: &Pair, at: usize, last: usize) -> Result<Vec<f64>> {
    let both = pair.both();
    let other = Still::new(both[1 - at]).context("freeze the other server")?;
    tokio::time::sleep(SETTLE).await;
    let mut times = Vec::new();
    for number in 0..last {
        times.push(come_up(both[at], number).await?);
    }
    both[at].cri().remove_everything().await?;
    other.end()?;
    tokio::time::sleep(SETTLE).await;
    Ok(times)
}

/// One more pod of one container; how long it took, in ms.
async fn come_up(node: &Node, number: usize) -> Result<f64> {
    let cri = node.cri();
    let config = pod_in_cgroup(node, &format!("idle-{number}"));
    let begin = Instant::now();
    let id = cri.run_pod(&config).await?;
    cri.run(&id, &container("main", BUSYBOX, &PROGRAM), &config).await?;
    Ok(milliseconds(begin))
}

/// Brings up the pods of these numbers on both, by turns.
async fn fill(pair: &Pair, numbers: Range<usize>) -> Result<()> {
    let numbers: Vec<usize> = numbers.collect();
    for block in numbers.chunks(BLOCK) {
        let both = pair.both();
        for (at, node) in both.into_iter().enumerate() {
            let other = Still::new(both[1 - at]).context("freeze the other server")?;
            tokio::time::sleep(SETTLE).await;
            for number in block {
                come_up(node, *number).await?;
            }
            other.end()?;
        }
    }
    Ok(())
}

/// Samples of each call to both; none where one of them does not have it.
///
/// A connection's calls are slow or fast for as long as it lives, by which processors its two ends are woken on. So each
/// block has one of its own; and the other server stands still meanwhile, for what it does by itself would be in
/// the way of this one's answers.
async fn ask(pair: &Pair, scale: Scale, level: usize) -> Result<Vec<Option<[Vec<f64>; 2]>>> {
    let mut samples: Vec<Option<[Vec<f64>; 2]>> = CALLS.iter().map(|_| Some([Vec::new(), Vec::new()])).collect();
    let both = pair.both();
    for _ in 0..scale.samples.div_ceil(BLOCK) {
        for (at, node) in both.into_iter().enumerate() {
            let other = Still::new(both[1 - at]).context("freeze the other server")?;
            tokio::time::sleep(SETTLE).await;
            let socket = node.socket();
            let times = tokio::task::spawn_blocking(move || {
                // One thread: a client that hands over between its own would wake itself up twice for each call, which is
                // more than half of what an empty one takes.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(asked(&socket, level))
            });
            let times = times.await.context("the asking thread")??;
            other.end()?;
            for (samples, times) in samples.iter_mut().zip(times) {
                match (&mut *samples, times) {
                    (Some(samples), Some(times)) => samples[at].extend(times),
                    _ => *samples = None,
                }
            }
        }
    }
    Ok(samples)
}

/// A block of each call over a new connection; none of what the server does not have.
async fn asked(socket: &Path, level: usize) -> Result<Vec<Option<Vec<f64>>>> {
    let cri = Cri::connect(socket);
    let mut blocks = Vec::new();
    for call in &CALLS {
        blocks.push(block(&cri, call, level).await?);
    }
    Ok(blocks)
}

async fn block(cri: &Cri, call: &Call, level: usize) -> Result<Option<Vec<f64>>> {
    let path = format!("/runtime.v1.RuntimeService/{}", call.method);
    let mut times = Vec::new();
    // The first connects, or finds what is no longer in any cache.
    for at in 0..=BLOCK {
        let begin = Instant::now();
        let answer = match raw::call(&cri.channel, &path, &[]).await {
            Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(None),
            other => other.with_context(|| format!("{} at {level} pods", call.name))?,
        };
        if at > 0 {
            times.push(milliseconds(begin));
        }
        let count = (call.count)(answer).with_context(|| format!("read the answer to {}", call.name))?;
        anyhow::ensure!(
            call.name == EMPTY || count == level,
            "{} answered {count} of {level}",
            call.name
        );
    }
    Ok(Some(times))
}

fn memory(pair: &Pair, pods: usize) -> Result<Row> {
    let mut memory: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for (node, memory) in pair.both().into_iter().zip(&mut memory) {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred pods")]
        memory.push(overhead(node)? / pods as f64);
    }
    Ok(row("memory_per_pod", "MB", memory))
}

fn rss(pair: &Pair, pods: usize) -> Result<Row> {
    let mut rss: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for (node, rss) in pair.both().into_iter().zip(&mut rss) {
        rss.push(of_status(node, "VmRSS:")?);
    }
    Ok(row(format!("daemon_rss_{pods}"), "MB", rss))
}

/// A value in MB of the server's `/proc/PID/status`.
pub(crate) fn of_status(node: &Node, key: &str) -> Result<f64> {
    let status = format!("/proc/{}/status", node.daemon_pid().context("no server")?);
    megabytes(Path::new(&status), key)
}

/// How often the servers wake up and what they use while nobody asks anything, both in the same seconds.
async fn idle(pair: &Pair) -> Result<[Row; 2]> {
    // Threads that were started for the calls before end after ten seconds without work.
    tokio::time::sleep(IDLE + Duration::from_secs(4)).await;
    let look = || -> Result<Vec<Activity>> {
        let pids = pair.both().map(Node::daemon_pid);
        pids.into_iter()
            .map(|pid| activity(pid.context("no server")?))
            .collect()
    };
    let before = look()?;
    tokio::time::sleep(IDLE).await;
    let after = look()?;
    let mut wakeups: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let mut share: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for (at, (before, after)) in before.into_iter().zip(after).enumerate() {
        let (mut times, mut nanoseconds) = (0.0, 0.0);
        for (thread, now) in after {
            let then = before.get(&thread).copied().unwrap_or_default();
            times += now.0 - then.0;
            nanoseconds += now.1 - then.1;
        }
        let seconds = IDLE.as_secs_f64();
        // Nothing at all would make a ratio of nothing.
        wakeups[at].push((times / seconds).max(0.1));
        share[at].push((nanoseconds / seconds / 1e9 * 100.0).max(0.001));
    }
    Ok([
        row("idle_wakeups_100", "per s", wakeups),
        row("idle_cpu_100", "%", share),
    ])
}

/// For each thread: how often it has gone to sleep, which is how often it was woken, and nanoseconds on a processor.
type Activity = HashMap<String, (f64, f64)>;

/// Of `/proc/PID/task/TID`. Being put off a processor by somebody else is no sleep.
fn activity(pid: u32) -> Result<Activity> {
    let mut threads = Activity::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let text = std::fs::read_to_string(path.join("status"))?;
        let slept = text
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let slept = slept.with_context(|| format!("{} does not count switches", path.display()))?;
        let text = std::fs::read_to_string(path.join("schedstat"))?;
        let nanoseconds = text.split_whitespace().next().context("schedstat is empty")?;
        threads.insert(
            path.display().to_string(),
            (slept.trim().parse()?, nanoseconds.parse()?),
        );
    }
    Ok(threads)
}

/// How much longer the last pod takes than the first.
fn slower(growth: &Growth, last: usize) -> Row {
    let [ours, peers] = growth.ups();
    row(
        format!("growth_{last}"),
        "times",
        [vec![trend(ours)], vec![trend(peers)]],
    )
}

/// The end of the line through `times` in its beginning: by the median of the slopes between any two blocks, which what
/// disturbed a few of them does not turn (Theil and Sen).
#[expect(clippy::cast_precision_loss, reason = "a few hundred pods")]
fn trend(times: &[f64]) -> f64 {
    let blocks: Vec<f64> = times.chunks_exact(BLOCK).map(median).collect();
    let mut slopes = Vec::new();
    for (at, one) in blocks.iter().enumerate() {
        for (distance, later) in blocks[at + 1..].iter().enumerate() {
            slopes.push((later - one) / (distance + 1) as f64);
        }
    }
    if slopes.is_empty() {
        return 1.0;
    }
    let slope = median(&slopes);
    let begins: Vec<f64> = blocks
        .iter()
        .enumerate()
        .map(|(at, one)| one - slope * at as f64)
        .collect();
    let begin = median(&begins);
    (begin + slope * (blocks.len() - 1) as f64) / begin
}

/// From the start of the server to its first list of all pods.
async fn starts(pair: &mut Pair, scale: Scale, pods: usize) -> Result<Row> {
    let mut times: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..scale.rounds {
        for (node, times) in pair.both_mut().into_iter().zip(&mut times) {
            node.stop_daemon().await?;
            let begin = Instant::now();
            node.spawn_daemon()?;
            loop {
                // As the kubelet does after an upgrade: a new connection, the list.
                match node.cri().pods(None).await {
                    Ok(list) if list.len() == pods => break,
                    _ => tokio::time::sleep(Duration::from_millis(2)).await,
                }
                anyhow::ensure!(
                    begin.elapsed() < Duration::from_secs(120),
                    "a server does not list its {pods} pods"
                );
            }
            times.push(milliseconds(begin));
        }
    }
    Ok(row(format!("start_{pods}"), "ms", times))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_seen_through_what_disturbed_a_part() {
        let flat: Vec<f64> = (0..100).map(|at| 10.0 + f64::from(at % 7)).collect();
        assert!((trend(&flat) - 1.0).abs() < 0.05, "{}", trend(&flat));
        let mut disturbed = flat;
        disturbed[80..].iter_mut().for_each(|time| *time *= 3.0);
        disturbed[..10].iter_mut().for_each(|time| *time *= 2.0);
        assert!((trend(&disturbed) - 1.0).abs() < 0.15, "{}", trend(&disturbed));
        let grows: Vec<f64> = (0..100).map(|at| 10.0 + 0.1 * f64::from(at)).collect();
        assert!((trend(&grows) - 1.87).abs() < 0.05, "{}", trend(&grows));
        assert!((trend(&[1.0; 3]) - 1.0).abs() < f64::EPSILON);
    }
}
