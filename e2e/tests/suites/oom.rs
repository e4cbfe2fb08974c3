//! The verdict on a death where memory ran out, a hundred times each: whose child died of it
//! and who went on, who died of it, and who was stopped later. The kubelet restarts and backs
//! off by this word, so that one wrong verdict in three hundred is one too many. A machine that is slow says how many
//! it wants: `BULKHEAD_OOM_CASES`, thirty at the least.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::resources;
use e2e::cri::Cri;
use e2e::limits::Kernel;
use e2e::{Bed, Node, Options, container, logs, test, test_within};
use proto::cri as v1;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

const CASES: usize = 100;
const FEWEST: usize = 30;
const AT_ONCE: usize = 8;
const LIMIT: Duration = Duration::from_secs(400);

/// How many of each kind.
fn cases() -> Result<usize> {
    let Some(text) = std::env::var_os("BULKHEAD_OOM_CASES") else {
        return Ok(CASES);
    };
    let count: usize = text.to_string_lossy().parse().context("BULKHEAD_OOM_CASES")?;
    ensure!(
        count >= FEWEST,
        "BULKHEAD_OOM_CASES is {count}; fewer than {FEWEST} show nothing"
    );
    Ok(count)
}

/// What is done to a container once its child was killed.
#[derive(Debug, Clone, Copy)]
enum After {
    /// It ends by itself.
    Nothing,
    /// It is stopped so, with this grace.
    Stop(i64),
}

/// What is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    code: i32,
    reason: &'static str,
}

/// Runs so many containers of `line`, several at once; every verdict must be as `expected` says for its number.
fn verdicts(line: &'static str, what: impl Fn(usize) -> (After, Verdict)) {
    let options = Options {
        quiet: true,
        ..Options::default()
    };
    test_within(LIMIT, options, async |node| -> Result<()> {
        let count = cases()?;
        let bed = Arc::new(Bed::new(node).await?);
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut cases = JoinSet::new();
        let all = async {
            for number in 0..count {
                let (after, expected) = what(number);
                let (bed, turns) = (Arc::clone(&bed), Arc::clone(&turns));
                cases.spawn_local(async move {
                    let _turn = turns.acquire().await?;
                    let verdict = one(&bed, number, line, after)
                        .await
                        .with_context(|| format!("case {number}"))?;
                    anyhow::Ok((number, expected, verdict))
                });
            }
            let mut wrong = Vec::new();
            while let Some(case) = cases.join_next().await {
                let (number, expected, (code, reason)) = case??;
                if code != expected.code || reason != expected.reason {
                    wrong.push(format!("case {number}: {code} {reason}, not {expected:?}"));
                }
            }
            anyhow::Ok(wrong)
        };
        let wrong = LocalSet::new().run_until(all).await?;
        ensure!(
            wrong.is_empty(),
            "{} of {count} are wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        Ok(())
    });
}

async fn one(bed: &Bed, number: usize, line: &str, after: After) -> Result<(i32, String)> {
    let mut config = container(&format!("c{number}"), BUSYBOX, &["sh", "-c", line]);
    resources(&mut config).memory_limit_in_bytes = 8 << 20;
    let id = bed.run(&config).await?;
    if let After::Stop(grace) = after {
        logs::wait_for(&logs::path(&bed.config, &config), "child gone").await?;
        bed.cri.stop(&id, grace).await?;
    }
    let status = ended(&bed.cri, &id).await?;
    bed.cri.remove(&id).await?;
    Ok((status.exit_code, status.reason))
}

/// The first status that says EXITED: a verdict must be there from the start.
async fn ended(cri: &Cri, id: &str) -> Result<v1::ContainerStatus> {
    for _ in 0..3000 {
        let status = cri.container_status(id).await?;
        if status.state() == v1::ContainerState::ContainerExited {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("{id} does not end")
}

#[test]
fn a_child_that_dies_of_memory_is_not_its_containers_death() {
    // The child wants 64 MB of 8.
    let line = "tail -c 64m /dev/zero >/dev/null; [ $? = 137 ] || exit 99; exit 3";
    let expected = Verdict {
        code: 3,
        reason: "Error",
    };
    verdicts(line, |_| (After::Nothing, expected));
}

#[test]
fn a_first_process_that_dies_of_memory_is_oomkilled() {
    let expected = Verdict {
        code: 137,
        reason: "OOMKilled",
    };
    verdicts("exec tail -c 64m /dev/zero", |_| (After::Nothing, expected));
}

#[test]
fn a_later_signal_after_a_childs_death_of_memory_is_no_oom() {
    // Every other one is killed without grace: the same signal as that of the OOM killer.
    let line = "trap 'exit 143' TERM; tail -c 64m /dev/zero >/dev/null; echo child gone; while :; do sleep 0.05; done";
    verdicts(line, |number| match number % 2 {
        0 => (
            After::Stop(20),
            Verdict {
                code: 143,
                reason: "Error",
            },
        ),
        _ => (
            After::Stop(0),
            Verdict {
                code: 137,
                reason: "Error",
            },
        ),
    });
}

/// Holds up a container's monitor from before its first process ends until it is dead and, where systemd makes the
/// cgroups, until systemd has removed that cgroup with the counter in it. What `end` has to do is done in between.
async fn told_late(node: &Node, line: &str, end: impl AsyncFnOnce(i64) -> Result<()>) -> Result<v1::ContainerStatus> {
    let bed = Bed::new(node).await?;
    let mut config = container("main", BUSYBOX, &["sh", "-c", line]);
    resources(&mut config).memory_limit_in_bytes = 8 << 20;
    let id = bed.run(&config).await?;
    let pid = bed.cri.container_pid(&id).await?;
    let directory = Kernel::of(node, &bed.cri, &id).await?.dir("memory")?.to_owned();
    let monitor = parent(node, pid)?;
    node.sh(&format!("kill -STOP {monitor}"))?;
    let done = async {
        end(pid).await?;
        let what = "the first process is dead, and its cgroup removed by systemd";
        e2e::wait::until(what, Duration::from_secs(60), async || {
            let stat = node.sh(&format!("cat /proc/{pid}/stat"))?;
            let dead = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
            let gone = !e2e::cgroups::by_systemd() || !directory.exists();
            Ok((dead && gone).then_some(()))
        })
        .await
    };
    let done = done.await;
    // A monitor that stands still could not be taken down.
    node.sh(&format!("kill -CONT {monitor}"))?;
    done?;
    ended(&bed.cri, &id).await
}

/// The parent of a process, as the node counts.
fn parent(node: &Node, pid: i64) -> Result<u32> {
    let status = node.sh(&format!("cat /proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(line.context("no PPid")?.trim().parse()?)
}

#[test]
fn a_verdict_is_right_when_the_cgroup_has_gone_before_it() {
    test(async |node| -> Result<()> {
        // It sleeps until its monitor is held up.
        let status = told_late(node, "sleep 3; exec tail -c 64m /dev/zero", async |_| Ok(())).await?;
        ensure!(
            (status.exit_code, status.reason.as_str()) == (137, "OOMKilled"),
            "{status:?}"
        );
        Ok(())
    });
}

#[test]
fn a_kill_by_somebody_else_is_no_oom_when_the_cgroup_has_gone() {
    test(async |node| -> Result<()> {
        let status = told_late(node, "sleep 100000", async |pid| {
            node.sh(&format!("kill -KILL {pid}")).map(drop)
        })
        .await?;
        ensure!(
            (status.exit_code, status.reason.as_str()) == (137, "Error"),
            "{status:?}"
        );
        Ok(())
    });
}
