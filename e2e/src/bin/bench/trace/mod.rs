//! `hack/bench --trace`: the time line of one pod's way, each system call of each process.
//!
//! The kernel records (`kernel`): calls, switches, forks and execs of the server and of all that
//! it starts, by the ftrace that is part of it, so nothing is built into the programs and none
//! of them runs slower but by the records themselves. `parse` reads its text, `line` makes
//! one line of each task (own code, kernel on a processor, asleep with the reason, waiting for
//! a processor), `chrome` and `svg` draw it, `digest` says in words where the time went.
//!
//! | file               | for                                                          |
//! |--------------------|--------------------------------------------------------------|
//! | `target/trace/pod.json` | the Chrome trace viewer, Perfetto, speedscope           |
//! | `target/trace/pod.svg`  | any browser; the details are in the tool tips           |
//! | standard output    | each step of the client, the tasks and sleeps that it consists of |

mod chrome;
mod digest;
mod kernel;
mod line;
mod parse;
mod svg;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use e2e::catalog::BUSYBOX;
use e2e::config::pod_in_cgroup;
use e2e::engine::Engine;
use e2e::{Node, Options, container, places};
use rustix::time::{ClockId, clock_gettime};

use self::line::Lines;
use super::measure::PROGRAM;

/// Microseconds of CLOCK_MONOTONIC, the clock of the records.
type Micros = u64;

fn now() -> Micros {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    part(time.tv_sec) * 1_000_000 + part(time.tv_nsec) / 1000
}

/// One call of the client.
#[derive(Debug, Clone)]
struct Step {
    name: &'static str,
    begin: Micros,
    end: Micros,
}

/// One pod's life, step by step.
async fn life(node: &Node) -> Result<Vec<Step>> {
    let cri = node.cri();
    let config = pod_in_cgroup(node, "trace");
    let main = container("main", BUSYBOX, &PROGRAM);
    let mut steps = Vec::new();
    let mut begin = now();
    let mut step = |name| {
        let end = now();
        steps.push(Step { name, begin, end });
        begin = end;
    };
    let id = cri.run_pod(&config).await?;
    step("RunPodSandbox");
    let container = cri.create(&id, &main, &config).await?;
    step("CreateContainer");
    cri.start(&container).await?;
    step("StartContainer");
    let output = cri.exec_with(&container, &["true"], 10).await?;
    step("ExecSync");
    anyhow::ensure!(output.code == 0, "exec ended with {}", output.code);
    cri.stop(&container, 0).await?;
    step("StopContainer");
    cri.remove(&container).await?;
    step("RemoveContainer");
    cri.stop_pod(&id).await?;
    step("StopPodSandbox");
    cri.remove_pod(&id).await?;
    step("RemovePodSandbox");
    Ok(steps)
}

/// Every thread of the node's processes, the registry's apart, by the numbers of this pid namespace.
fn tasks(node: &Node) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        // One that ends meanwhile has no threads any more.
        let Ok(threads) = std::fs::read_dir(entry.path().join("task")) else {
            continue;
        };
        if comm.trim() == "docker-registry" || !same_namespace(pid, node.init()) {
            continue;
        }
        for thread in threads.flatten() {
            found.insert(thread.file_name().to_string_lossy().parse::<u32>()?);
        }
    }
    Ok(found)
}

fn same_namespace(pid: u32, other: u32) -> bool {
    let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    of(pid).is_some_and(|namespace| of(other) == Some(namespace))
}

/// What is to be recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// Pods that idle beside it.
    pub(crate) pods: usize,
    /// Of how many lives, one right after the other, the one that came up slowest is shown.
    pub(crate) lives: usize,
}

/// The time of the way up.
fn up(steps: &[Step]) -> Micros {
    let of_up = |step: &&Step| ["RunPodSandbox", "CreateContainer", "StartContainer"].contains(&step.name);
    steps.iter().filter(of_up).map(|step| step.end - step.begin).sum()
}

/// Records lives and writes what was seen of one.
pub(crate) async fn trace(directory: &Path, wish: Wish) -> Result<()> {
    let node = Node::start(Options {
        engine: Engine::Bulkhead,
        quiet: true,
        ..Options::default()
    })
    .await?;
    node.cri().pull(BUSYBOX).await?;
    for number in 0..wish.pods {
        let config = pod_in_cgroup(&node, &format!("idle-{number}"));
        let id = node.cri().run_pod(&config).await?;
        node.cri()
            .run(&id, &container("main", BUSYBOX, &PROGRAM), &config)
            .await?;
    }
    for _ in 0..4 {
        life(&node).await.context("warm up")?;
    }
    // What earlier lives left to the background is done.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let recorder = kernel::Recorder::start(&tasks(&node)?)?;
    let (mut slowest, mut times) = (None::<(Vec<Step>, String)>, Vec::new());
    for _ in 0..wish.lives.max(1) {
        recorder.clear()?;
        let steps = life(&node).await?;
        times.push(up(&steps));
        if slowest.as_ref().is_none_or(|(seen, _)| up(seen) < up(&steps)) {
            slowest = Some((steps, recorder.text()?));
        }
    }
    drop(recorder);
    times.sort_unstable();
    let (steps, text) = slowest.context("no life was recorded")?;
    println!("of {} lives, up in µs: {times:?}", times.len());
    let events = parse::events(&text);
    anyhow::ensure!(!events.is_empty(), "the kernel recorded nothing");
    let lines = Lines::of(&events, &steps);
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    for (name, text) in [
        ("pod.json", chrome::draw(&lines, &steps)?),
        ("pod.svg", svg::draw(&lines, &steps)),
    ] {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    print!("{}", digest::text(&lines, &steps));
    node.finish().await
}

/// Where the files go.
pub(crate) fn directory() -> std::path::PathBuf {
    places::tree().join("target/trace")
}
