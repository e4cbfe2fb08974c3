//! Bad input for every RPC, by a generator over the descriptors: 10,000 cases, of which no
//! one may panic, hang, leak, or be answered as if the server were at fault.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::fuzz::drive::{self, seed};
use e2e::fuzz::methods;
use e2e::{Node, Options, test_within};

const LIMIT: Duration = Duration::from_secs(600);

/// How many cases a part runs: its share of `BULKHEAD_FUZZ_CASES`, or of 10,000.
fn share(of_hundred: usize) -> usize {
    let all = std::env::var("BULKHEAD_FUZZ_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(10_000_usize);
    all * of_hundred / 100
}

/// Descriptors and memory (kB) of the server.
fn used(node: &Node) -> Result<(usize, u64)> {
    let pid = node.daemon_pid().context("no server")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .context("no VmRSS")?;
    Ok((std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(), memory))
}

fn fuzz(of_hundred: usize, wanted: impl Fn(&str) -> bool) {
    let options = Options {
        quiet: true,
        // A registry that is not there must not be waited for.
        config: "image:\n  progress_timeout_seconds: 5\n".into(),
        ..Options::default()
    };
    test_within(LIMIT, options, async |node| -> Result<()> {
        let seed = seed();
        let (cases, methods) = (share(of_hundred), methods()?);
        let methods: Vec<_> = methods.into_iter().filter(|method| wanted(method.name())).collect();
        let (descriptors, _) = used(node)?;
        let pid = node.daemon_pid();
        let tally = drive::run(node, &methods, cases, seed).await?;
        ensure!(tally.faults.is_empty(), "seed {seed}:\n{}", tally.faults.join("\n"));
        ensure!(
            node.daemon()?.ended()?.is_none() && node.daemon_pid() == pid,
            "the server ended"
        );
        let log = node.log_tail(1_000_000);
        ensure!(!log.contains("panicked"), "seed {seed}: the log tells of a panic");
        node.cri().version().await?;
        node.cri().remove_everything().await?;
        let (now, memory) = used(node)?;
        ensure!(now < descriptors + 40, "{descriptors} descriptors before, {now} after");
        ensure!(memory < 200_000, "{memory} kB of memory");
        Ok(())
    });
}

#[test]
fn pods_of_bad_input() {
    fuzz(20, |name| name == "RunPodSandbox");
}

#[test]
fn containers_of_bad_input() {
    fuzz(40, |name| name == "CreateContainer");
}

#[test]
fn every_other_request_of_bad_input() {
    fuzz(40, |name| !matches!(name, "RunPodSandbox" | "CreateContainer"));
}

#[test]
fn all_forty_three_methods_are_among_them() -> Result<()> {
    ensure!(methods()?.len() == 43, "{} methods", methods()?.len());
    Ok(())
}
