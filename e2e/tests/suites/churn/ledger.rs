//! What is counted meanwhile: pods that came up and how long it took, restarts, warnings, processor time, memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime};

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
    /// When it was created and when it became ready, by the pod's uid.
    ready: HashMap<String, (i64, i64)>,
    /// When it was told to leave, by the pod's name.
    deleted: HashMap<String, i64>,
    /// Probes that failed between the two.
    probes_failed: Vec<String>,
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
            deleted: HashMap::new(),
            probes_failed: Vec::new(),
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
                self.ready.insert(uid.to_owned(), (seconds(created)?, seconds(ready)?));
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

    /// Takes down that a pod was told to leave, just now.
    pub(super) fn deleted(&mut self, name: &str) -> Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        self.deleted.insert(name.to_owned(), i64::try_from(now)?);
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
            self.probe(event, &message)?;
            let example = format!("{} {message}", event["involvedObject"]["name"]);
            let entry = self
                .warnings
                .entry(kind(&text("reason"), &message))
                .or_insert((0, example));
            entry.0 += count;
        }
        Ok(())
    }

    /// A probe has to succeed from when the pod is ready until it is told to leave. One that is under way then may fail.
    fn probe(&mut self, event: &Value, message: &str) -> Result<()> {
        const UNDER_WAY: i64 = 2;
        let object = |key: &str| event["involvedObject"][key].as_str().unwrap_or_default();
        let Some((_, ready)) = self.ready.get(object("uid")) else {
            return Ok(());
        };
        if event["reason"] != "Unhealthy" || !message.contains(" probe failed") {
            return Ok(());
        }
        let leaves = self.deleted.get(object("name")).map_or(i64::MAX, |at| at - UNDER_WAY);
        for key in ["firstTimestamp", "lastTimestamp"] {
            let at = seconds(event[key].as_str().context("an event without its time")?)?;
            if *ready < at && at < leaves {
                self.probes_failed
                    .push(format!("{} {} {message}", object("name"), event[key]));
            }
        }
        Ok(())
    }

    /// The table's line.
    pub(super) fn report(&self, node: &Node) -> Result<Value> {
        let elapsed = self.began.elapsed();
        let used = account::processor(node)?.saturating_sub(self.processor);
        let mut ready: Vec<i64> = self.ready.values().map(|(created, ready)| ready - created).collect();
        ready.sort_unstable();
        let at = |part: usize| ready.get(ready.len() * part / 100).copied();
        let column = |of: fn(&Memory) -> u64| self.memory.iter().map(of).collect::<Vec<_>>();
        Ok(json!({
            "server": if node.ours() { "Bulkhead" } else { "containerd" },
            "seconds": elapsed.as_secs(),
            "pods_that_came_up": ready.len(),
            "seconds_to_ready": {"p50": at(50), "p90": at(90), "max": ready.last()},
            "probes_failed": self.probes_failed.len(),
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

    /// No container was restarted, no probe failed, and memory stays flat.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            self.probes_failed.is_empty(),
            "probes failed: {:#?}",
            self.probes_failed
        );
        ensure!(
            self.restarted.is_empty(),
            "restarted, and nobody asked for it: {:#?}",
            self.restarted
        );
        let mut settled = self.memory.iter().filter(|one| one.at >= SETTLED);
        let Some(first) = settled.next() else { return Ok(()) };
        for later in settled {
            ensure!(
                later.server * 10 <= first.server * 11,
                "the server's memory grew by more than a tenth: {} kB after {:?}, {} kB after {:?}",
                first.server,
                first.at,
                later.server,
                later.at
            );
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

/// Seconds since the epoch of a time like 2026-11-20T18:27:50Z.
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
    // Days of a civil date: years begin in March, so that a leap day is a year's last. 719469 of them are before 1970.
    let (year, month) = if *month > 2 {
        (*year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    Ok(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[test]
fn a_time_is_read() {
    assert_eq!(seconds("1970-01-01T00:00:00Z").unwrap(), 0);
    assert_eq!(seconds("2024-02-29T12:34:56Z").unwrap(), 1_709_210_096);
    assert!(seconds("yesterday").is_err());
}
