//! `/metrics`: each metric of the daemon moves when what it is about happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::catalog::{BUSYBOX, REGISTRY};
use e2e::config::resources;
use e2e::{Bed, Node, Options, container, sleeper, test_with, wait};
use proto::cri as v1;

const LISTEN: &str = "127.0.0.1:9111";

fn options() -> Options {
    Options {
        config: format!("metrics:\n  listen: {LISTEN}\n"),
        ..Options::default()
    }
}

/// A name without the suffix that the text format gives to counters and infos.
fn bare(name: &str) -> &str {
    let suffix = |suffix| name.strip_suffix(suffix);
    suffix("_total").or_else(|| suffix("_info")).unwrap_or(name)
}

/// The names that docs/metrics.md has.
fn documented() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(e2e::places::tree().join("docs/metrics.md"))?;
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    Ok(rows
        .map(|name| bare(name.split('{').next().unwrap_or(name)).to_owned())
        .collect())
}

/// Metrics by name, each with its largest value over all labels.
fn scrape(node: &Node) -> Result<BTreeMap<String, f64>> {
    let text = node.sh(&format!("busybox wget -qO- http://{LISTEN}/metrics"))?;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let name = kind.split(' ').next().context("no name")?;
            found.entry(name.to_owned()).or_insert(0.0);
            continue;
        }
        let Some((sample, value)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let name = sample.split('{').next().unwrap_or_default();
        // Of a histogram the count.
        let name = name.strip_suffix("_count").unwrap_or_else(|| bare(name));
        if let Some(largest) = found.get_mut(name) {
            *largest = value.parse::<f64>().unwrap_or(0.0).max(*largest);
        }
    }
    Ok(found)
}

fn sample(node: &Node, line: &str) -> Result<f64> {
    let text = node.sh(&format!("busybox wget -qO- http://{LISTEN}/metrics"))?;
    let found = text
        .lines()
        .find_map(|sample| sample.strip_prefix(line)?.strip_prefix(' '));
    Ok(found.and_then(|value| value.parse().ok()).unwrap_or(0.0))
}

/// More events than a reader may be behind, to one that reads nothing for a while.
async fn lose_events(bed: &Bed) -> Result<tonic::Streaming<v1::ContainerEventResponse>> {
    let stalled = bed
        .cri
        .runtime
        .clone()
        .get_container_events(v1::GetEventsRequest {})
        .await?;
    let gone = async |number: u32| -> Result<()> {
        let id = bed.create(&sleeper(&format!("lost-{number}"))).await?;
        Ok(bed.cri.remove(&id).await?)
    };
    for round in 0..100 {
        let at = round * 4;
        tokio::try_join!(gone(at), gone(at + 1), gone(at + 2), gone(at + 3))?;
    }
    let mut stalled = stalled.into_inner();
    // It reads again, and only now is it told what it has lost.
    for _ in 0..300 {
        let event = tokio::time::timeout(Duration::from_secs(5), stalled.message()).await;
        ensure!(matches!(event, Ok(Ok(Some(_)))), "the stream ended: {event:?}");
    }
    Ok(stalled)
}

#[test]
fn metrics_all_move() {
    test_with(options(), async |node| -> Result<()> {
        // Large, so that a reader that reads nothing is soon behind.
        let large = ("large".to_owned(), "x".repeat(20_000));
        let bed = Bed::with(node, |config| config.annotations.extend([large])).await?;
        // Again, another image of the same layers, and one that does not exist.
        bed.cri.pull(BUSYBOX).await?;
        bed.cri.pull(&format!("{REGISTRY}/busybox:2")).await?;
        ensure!(
            bed.cri.pull(&format!("{REGISTRY}/no/such:1")).await.is_err(),
            "it was pulled"
        );

        let mut greedy = container("greedy", BUSYBOX, &["sh", "-c", "a=x; while :; do a=$a$a; done"]);
        resources(&mut greedy).memory_limit_in_bytes = 32 << 20;
        let greedy = bed.run(&greedy).await?;
        let ended = bed.cri.exited(&greedy).await?;
        ensure!(ended.reason == "OOMKilled", "{ended:?}");

        let orphan = bed.sleeper("orphan").await?;
        let pid = bed.cri.container_pid(&orphan).await?;
        node.sh(&format!(
            "kill -9 $(sed -n 's/^PPid:[[:space:]]*//p' /proc/{pid}/status)"
        ))?;
        ensure!(
            bed.cri.exited(&orphan).await?.exit_code == 255,
            "the monitor was not lost"
        );

        let bad = r#"{"cniVersion": "1.0.0", "name": "bad", "plugins": [{"type": "no-such-plugin"}]}"#;
        node.write_network("00-bad.conflist", bad)?;
        wait::until("the network is broken", Duration::from_secs(10), async || {
            let broken = e2e::config::pod(node, "broken");
            Ok(bed.cri.run_pod(&broken).await.is_err().then_some(()))
        })
        .await?;
        std::fs::remove_file(node.conf_dir().join("00-bad.conflist"))?;

        let _stalled = lose_events(&bed).await?;

        // The kubelet asks again while its request is under way.
        let again = e2e::config::pod(node, "again");
        let ask = || bed.cri.run_pod(&again);
        let (first, second, third) = tokio::try_join!(ask(), ask(), ask())?;
        ensure!(first == second && second == third, "{first} {second} {third}");

        // A program that waits for none of its children.
        let careless = container("careless", BUSYBOX, &["sh", "-c", "true & exec sleep 100000"]);
        bed.run(&careless).await?;

        // One of each state.
        bed.sleeper("running").await?;
        bed.create(&sleeper("created")).await?;
        let stopped = wait::until("the network is mended", Duration::from_secs(10), async || {
            Ok(bed.cri.run_pod(&e2e::config::pod(node, "stopped")).await.ok())
        })
        .await?;
        bed.cri.stop_pod(&stopped).await?;

        // A registry that takes a connection and says nothing.
        let silent = "127.0.0.1:9112";
        let mut listener = node.enter("busybox");
        let mut listener = listener
            .args(["nc", "-l", "-p", "9112"])
            .stdin(std::process::Stdio::piped())
            .spawn()?;
        let pull = bed.cri.pull_as("127.0.0.1:9112/x:1", None);
        let looked = async {
            wait::until("a pull is under way", Duration::from_secs(20), async || {
                Ok((scrape(node)?["bulkhead_image_pulls_in_progress"] > 0.0).then_some(()))
            })
            .await?;
            scrape(node)
        };
        let all = tokio::select! {
            pulled = pull => anyhow::bail!("{silent} was pulled from: {pulled:?}"),
            all = looked => all,
        };
        listener.kill()?;
        listener.wait()?;
        let all = all?;
        let idle: Vec<&String> = all
            .iter()
            .filter(|(_, value)| **value <= 0.0)
            .map(|(name, _)| name)
            .collect();
        ensure!(idle.is_empty(), "nothing moves {idle:?}");
        let told: BTreeSet<String> = all.into_keys().collect();
        let documented = documented()?;
        let others: Vec<_> = told.symmetric_difference(&documented).collect();
        ensure!(others.is_empty(), "in /metrics or in docs/metrics.md alone: {others:?}");
        Ok(())
    });
}

#[test]
fn a_failed_call_is_counted_as_one() {
    test_with(options(), async |node| -> Result<()> {
        let cri = node.cri();
        ensure!(cri.container_status("f00").await.is_err(), "it exists");
        let errors = "bulkhead_operations_errors_total{operation=\"ContainerStatus\",code=\"5\"}";
        wait::until("the failure is counted", Duration::from_secs(5), async || {
            Ok((sample(node, errors)? == 1.0).then_some(()))
        })
        .await?;
        cri.version().await?;
        ensure!(
            sample(node, "bulkhead_operations_calls_total{operation=\"Version\"}")? >= 1.0,
            "the success is not counted"
        );
        let text = node.sh(&format!("busybox wget -qO- http://{LISTEN}/metrics"))?;
        ensure!(!text.contains("errors_total{operation=\"Version\""), "{text}");
        Ok(())
    });
}

#[test]
fn metrics_are_on_a_unix_socket_for_root_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("metrics.sock");
    let options = Options {
        config: format!("metrics:\n  socket: {}\n", path.display()),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        use std::io::{Read, Write};
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path)?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{mode:o}");
        let mut socket = std::os::unix::net::UnixStream::connect(&path)?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        ensure!(
            text.starts_with("HTTP/1.1 200") && text.contains("bulkhead_build_info{"),
            "{text}"
        );
        node.stop_daemon().await?;
        ensure!(!path.exists(), "the socket stays");
        node.start_daemon().await
    });
}
