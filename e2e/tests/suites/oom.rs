//! The verdict on a death where memory ran out, a hundred times each: whose child died of it
//! and who went on, who died of it, and who was stopped later. The kubelet restarts and backs
//! off by this word, so that one wrong verdict in three hundred is one too many.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::resources;
use e2e::cri::Cri;
use e2e::{Bed, Options, container, logs, test_within};
use proto::cri as v1;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

const CASES: usize = 100;
const AT_ONCE: usize = 8;
const LIMIT: Duration = Duration::from_secs(400);

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

/// Runs a hundred containers of `line`, several at once; every verdict must be as `expected` says for its number.
fn verdicts(line: &'static str, what: impl Fn(usize) -> (After, Verdict)) {
    let options = Options {
        quiet: true,
        ..Options::default()
    };
    test_within(LIMIT, options, async |node| -> Result<()> {
        let bed = Arc::new(Bed::new(node).await?);
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut cases = JoinSet::new();
        let all = async {
            for number in 0..CASES {
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
            "{} of {CASES} are wrong:\n{}",
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
