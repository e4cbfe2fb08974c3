//! What is counted meanwhile: pods that came up and how long it took, restarts, warnings, processor time, memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kube::Cluster;
use e2e::{Node, account};
use serde_json::{Value, json};

/// From when on the server's memory is to be flat.
const SETTLED: Duration = Duration::from_secs(600);

/// The server's memory at one time, in kB.
struct Memory {
    at: Duration,
    /// Its own resident set.
    server: u64,
    /// PSS of it and its helpers.
    all: u64,
}

pub(super) struct Ledger {
    began: Instant,
    processor: Duration,
    /// Seconds from the creation to ready, by the pod's uid.
    ready: HashMap<String, i64>,
    /// Containers whose earlier run had ended.
    restarted: BTreeSet<String>,
    /// Containers of which an earlier attempt was cut by a kill before it ran.
    cut: BTreeSet<String>,
    memory: Vec<Memory>,
    /// Warnings by reason: how many, and one of them.
    warnings: BTreeMap<String, (u64, String)>,
}

impl Ledger {
    pub(super) fn open(node: &Node) -> Result<Self> {
        Ok(Self {
            began: Instant::now(),
            processor: account::processor(node)?,
            ready: HashMap::new(),
            restarted: BTreeSet::new(),
            cut: BTreeSet::new(),
            memory: Vec::new(),
            warnings: BTreeMap::new(),
        })
    }

    /// Takes down what the API server says of the pods.
    pub(super) fn pods(&mut self, pods: &[Value]) -> Result<()> {
        for pod in pods {
            let metadata = &pod["metadata"];
            let uid = metadata["uid"].as_str().context("a pod without uid")?;
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions
                .filter(|one| one["type"] == "Ready" && one["status"] == "True")
                .find_map(|one| one["lastTransitionTime"].as_str());
            if let (Some(ready), false) = (ready, self.ready.contains_key(uid)) {
                let created = metadata["creationTimestamp"].as_str().context("no creation time")?;
                self.ready.insert(uid.to_owned(), seconds(ready)? - seconds(created)?);
            }
            for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
                if status["restartCount"].as_u64().unwrap_or(0) == 0 {
                    continue;
                }
                let ended = &status["lastState"]["terminated"];
                let one = format!("{} {uid} {ended}", metadata["name"]);
                if ended["startedAt"].is_string() {
                    self.restarted.insert(one);
                } else {
                    self.cut.insert(one);
                }
            }
        }
        Ok(())
    }

    /// Measures the server as it is now.
    pub(super) fn measure(&mut self, node: &Node) -> Result<()> {
        let server = node.daemon_pid().and_then(account::resident);
        self.memory.push(Memory {
            at: self.began.elapsed(),
            server: server.context("the server does not run")?,
            all: account::memory(node)?,
        });
        Ok(())
    }

    /// Takes down the warnings of the whole time.
    pub(super) fn warnings(&mut self, cluster: &Cluster) -> Result<()> {
        let events = cluster.get(&["events", "--field-selector", "type=Warning"])?;
        for event in events["items"].as_array().into_iter().flatten() {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            let count = event["count"].as_u64().unwrap_or(1);
            let message = text("message");
            let example = format!("{} {message}", event["involvedObject"]["name"]);
            let entry = self
                .warnings
                .entry(kind(&text("reason"), &message))
                .or_insert((0, example));
            entry.0 += count;
        }
        Ok(())
    }

    /// The table's line.
    pub(super) fn report(&self, node: &Node) -> Result<Value> {
        let elapsed = self.began.elapsed();
        let used = account::processor(node)?.saturating_sub(self.processor);
        let mut ready: Vec<i64> = self.ready.values().copied().collect();
        ready.sort_unstable();
        let at = |part: usize| ready.get(ready.len() * part / 100).copied();
        let column = |of: fn(&Memory) -> u64| self.memory.iter().map(of).collect::<Vec<_>>();
        Ok(json!({
            "server": if node.ours() { "Bulkhead" } else { "containerd" },
            "seconds": elapsed.as_secs(),
            "pods_that_came_up": ready.len(),
            "seconds_to_ready": {"p50": at(50), "p90": at(90), "max": ready.last()},
            "restarts": self.restarted.len(),
            "attempts_cut_before_they_ran": self.cut.len(),
            "processor_seconds": used.as_secs_f64(),
            "processor_percent": used.as_secs_f64() / elapsed.as_secs_f64() * 100.0,
            "server_rss_kb": column(|one| one.server),
            "all_pss_kb": column(|one| one.all),
            "warnings": self.warnings.iter().map(|(reason, (count, example))| {
                (reason.clone(), json!({"count": count, "one": example}))
            }).collect::<serde_json::Map<_, _>>(),
        }))
    }

    /// No container was restarted, none was called dead, and memory stays flat.
    pub(super) fn check(&self) -> Result<()> {
        // A readiness probe is the first to ask, and may come before the program listens.
        ensure!(
            !self.warnings.contains_key("Liveness probe failed"),
            "liveness probes failed: {:?}",
            self.warnings
        );
        ensure!(
            self.restarted.is_empty(),
            "restarted, and nobody asked for it: {:#?}",
            self.restarted
        );
        let mut settled = self.memory.iter().filter(|one| one.at >= SETTLED);
        let Some(first) = settled.next() else { return Ok(()) };
        for later in settled {
            for (what, was, is) in [
                ("the server's resident memory", first.server, later.server),
                ("PSS of the server and its helpers", first.all, later.all),
            ] {
                ensure!(
                    is * 10 <= was * 11,
                    "{what} grew by more than a tenth: {was} kB after {:?}, {is} kB after {:?}",
                    first.at,
                    later.at
                );
            }
        }
        Ok(())
    }
}

/// A warning's reason; of a probe also how it went. One that could not be asked, because the server was away, says
/// nothing of the container, and the kubelet drops it.
fn kind(reason: &str, message: &str) -> String {
    match message.split_once(" probe ") {
        Some((probe, how)) if reason == "Unhealthy" => {
            let how = how.split([':', ' ']).next().unwrap_or_default();
            format!("{probe} probe {how}")
        }
        _ => reason.to_owned(),
    }
}

/// Seconds of a time like 2026-11-20T18:27:50Z, from any fixed day on.
fn seconds(time: &str) -> Result<i64> {
    let numbers: Vec<i64> = time
        .trim_end_matches('Z')
        .split(['-', 'T', ':', '.'])
        .take(6)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{time:?} is no time"))?;
    let [year, month, day, hour, minute, second] = numbers.as_slice() else {
        anyhow::bail!("{time:?} is no time");
    };
    // Days of a civil date: years begin in March, so that a leap day is a year's last.
    let (year, month) = if *month > 2 {
        (*year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Ok(((days * 24 + hour) * 60 + minute) * 60 + second)
}
