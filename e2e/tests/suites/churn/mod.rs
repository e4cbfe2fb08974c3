//! Many pods on one node come and go, are probed every second and exec'd into, while the server is
//! killed again and again, and the kubelet now and then (`hack/test churn`).
//!
//! `BULKHEAD_CHURN_SECONDS` (120) and `BULKHEAD_CHURN_PODS` (110); half an hour is 1800. What was counted is
//! written to `BULKHEAD_CHURN_JSON`. With `BULKHEAD_E2E_ENGINE=containerd` it is only counted.

mod errands;
mod ledger;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::Options;
use e2e::kube::cluster::test_for;
use e2e::kube::pods::{STAY, is_ready, merge, pod, shell};
use e2e::kube::{Cluster, Settings};
use serde_json::{Value, json};

use errands::Errands;
use ledger::Ledger;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (limit.max(1) as u64)).unwrap_or(0)
    }
}

fn deployment(name: &str, replicas: u64, script: &str, probe: Value) -> Value {
    let mut probe = probe;
    merge(
        &mut probe,
        json!({"periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 3}),
    );
    let main = shell(
        "main",
        script,
        json!({"livenessProbe": probe.clone(), "readinessProbe": probe}),
    );
    let template = pod(
        name,
        &[main],
        json!({"terminationGracePeriodSeconds": 2, "automountServiceAccountToken": false}),
    );
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "progressDeadlineSeconds": 3000,
                 "template": {"metadata": {"labels": {"app": name, "churn": "yes"}}, "spec": template["spec"]}},
    })
}

fn pods(cluster: &Cluster) -> Result<Vec<Value>> {
    let list = cluster.get(&["pods", "-l", "churn=yes"])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

async fn all_ready(cluster: &Cluster, count: u64, seconds: u64) -> Result<Vec<Value>> {
    let mut last = Vec::new();
    let ready = cluster.eventually("every pod is ready and none is leaving", seconds, || {
        last = pods(cluster)?;
        let settled = last
            .iter()
            .all(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null());
        Ok((settled && last.len() as u64 == count).then(|| last.clone()))
    });
    let ready = ready.await;
    ready.with_context(|| {
        let stuck: Vec<String> = last
            .iter()
            .filter(|pod| !is_ready(pod) || !pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| format!("{} {}", pod["metadata"]["name"], pod["status"]["containerStatuses"]))
            .collect();
        format!("{} pods, of which not ready:\n{}", last.len(), stuck.join("\n"))
    })
}

/// Three deployments with `count` pods together, one for each kind of probe.
fn deployments(count: u64) -> [Value; 3] {
    let web = format!("httpd -p 8080 -h /srv; {STAY}");
    let third = count / 3;
    [
        deployment("by-exec", third, STAY, json!({"exec": {"command": ["true"]}})),
        deployment(
            "by-http",
            third,
            &web,
            json!({"httpGet": {"path": "/index.html", "port": 8080}}),
        ),
        deployment("by-tcp", count - 2 * third, &web, json!({"tcpSocket": {"port": 8080}})),
    ]
}

/// How often what is killed.
struct Pace {
    server: Duration,
    kubelet: Duration,
}

#[derive(Default)]
struct Done {
    deleted: u32,
    servers: u32,
    kubelets: u32,
}

/// A kubelet that has just begun knows no pod until the API server has told it of them, and refuses an exec with "pod
/// does not exist". That is not the server's fault, and no measure of it.
async fn known_again(cluster: &Cluster) -> Result<()> {
    let there = pods(cluster)?;
    let names: Vec<&str> = there
        .iter()
        .filter(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())
        .filter_map(|pod| pod["metadata"]["name"].as_str())
        .collect();
    let knows_all = || {
        let list: Value = serde_json::from_str(&cluster.kubelet.get("/pods")?)?;
        let known: HashSet<&str> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .collect();
        Ok(names.iter().all(|name| known.contains(name)).then_some(()))
    };
    cluster
        .eventually("the kubelet knows its pods again", 60, knows_all)
        .await
}

/// Deletes, execs and kills until the time is over.
async fn churn(cluster: &mut Cluster, time: Duration, errands: &mut Errands, ledger: &mut Ledger) -> Result<Done> {
    let began = Instant::now();
    let pace = if time > Duration::from_secs(300) {
        (60, 300)
    } else {
        (30, 80)
    };
    let pace = Pace {
        server: Duration::from_secs(pace.0),
        kubelet: Duration::from_secs(pace.1),
    };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut done = Done::default();
    let (mut server_killed, mut kubelet_killed) = (Instant::now(), Instant::now());
    while began.elapsed() < time {
        let there = pods(cluster)?;
        ledger.pods(&there)?;
        let names: Vec<&str> = there
            .iter()
            .filter(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .collect();
        if names.len() > 1 {
            let gone = names[dice.below(names.len())];
            ledger.deleted(gone)?;
            cluster.kubectl(&["delete", "pod", gone, "--wait=false"])?;
            done.deleted += 1;
            let into = names[dice.below(names.len())];
            // Not into one that has just been told to leave.
            if into != gone {
                errands.send(cluster, into)?;
            }
        }
        if server_killed.elapsed() > pace.server {
            // Those under way are cut by the kill, which is no fault.
            errands.finish(Duration::from_secs(20)).await?;
            ledger.measure(&cluster.kubelet.node)?;
            cluster.kubelet.node.restart().await?;
            (server_killed, done.servers) = (Instant::now(), done.servers + 1);
        }
        if kubelet_killed.elapsed() > pace.kubelet {
            errands.finish(Duration::from_secs(20)).await?;
            cluster.kubelet.kill_kubelet()?;
            cluster.kubelet.start_kubelet().await?;
            known_again(cluster).await?;
            (kubelet_killed, done.kubelets) = (Instant::now(), done.kubelets + 1);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        errands.finish(Duration::ZERO).await?;
    }
    errands.finish(Duration::from_secs(30)).await?;
    Ok(done)
}

#[test]
fn pods_come_and_go_while_everything_is_killed() {
    let (seconds, count) = (
        number("BULKHEAD_CHURN_SECONDS", 120),
        number("BULKHEAD_CHURN_PODS", 110),
    );
    let settings = Settings {
        options: Options {
            accounted: true,
            ..Options::default()
        },
        ..Settings::default()
    };
    test_for(
        Duration::from_secs(seconds + 900),
        settings,
        async |cluster| -> Result<()> {
            cluster.kubelet.node.cri().pull(e2e::catalog::BUSYBOX).await?;
            let began = Instant::now();
            let mut ledger = Ledger::open(&cluster.kubelet.node)?;
            cluster.apply(&deployments(count))?;
            ledger.pods(&all_ready(cluster, count, 400).await?)?;
            let filled = began.elapsed().as_secs_f64();

            let mut errands = Errands::default();
            let done = churn(cluster, Duration::from_secs(seconds), &mut errands, &mut ledger).await?;
            ledger.pods(&all_ready(cluster, count, 300).await?)?;
            ledger.measure(&cluster.kubelet.node)?;
            ledger.warnings(cluster)?;
            let mut report = ledger.report(&cluster.kubelet.node)?;
            merge(
                &mut report,
                json!({"pods": count, "seconds_until_all_were_ready": filled, "deleted": done.deleted,
                       "server_killed": done.servers, "kubelet_killed": done.kubelets,
                       "execs": errands.done, "execs_failed": errands.failed}),
            );
            println!("{report:#}");
            if let Ok(file) = std::env::var("BULKHEAD_CHURN_JSON") {
                std::fs::write(&file, format!("{report:#}\n")).with_context(|| format!("write {file}"))?;
            }
            if !cluster.kubelet.node.ours() {
                return Ok(());
            }
            ensure!(
                done.servers > 0 && done.deleted > 10 && errands.done > 5,
                "too little happened"
            );
            ledger.check()?;
            ensure!(errands.failed.is_empty(), "execs failed: {:#?}", errands.failed);
            let pods = cluster.kubelet.node.cri().pods(None).await?;
            let ready = pods
                .iter()
                .filter(|pod| pod.state() == proto::cri::PodSandboxState::SandboxReady)
                .count();
            ensure!(ready as u64 == count, "{ready} ready sandboxes for {count} pods");
            Ok(())
        },
    );
}
