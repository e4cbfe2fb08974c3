//! Many pods on one node come and go, are probed every second and exec'd into, while the server is
//! killed again and again, and the kubelet now and then (`hack/test churn`).
//!
//! `BULKHEAD_CHURN_SECONDS` (120) and `BULKHEAD_CHURN_PODS` (110); half an hour is 1800.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kube::cluster::test_for;
use e2e::kube::pods::{STAY, is_ready, merge, pod, restarts, shell};
use e2e::kube::{Cluster, Settings};
use serde_json::{Value, json};

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

/// Resident memory of a process, in kB.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

struct Errand {
    what: String,
    client: Child,
    since: Instant,
}

#[test]
fn pods_come_and_go_while_everything_is_killed() {
    let (seconds, count) = (
        number("BULKHEAD_CHURN_SECONDS", 120),
        number("BULKHEAD_CHURN_PODS", 110),
    );
    test_for(
        Duration::from_secs(seconds + 900),
        Settings::default(),
        async |cluster| -> Result<()> {
            cluster.kubelet.node.cri().pull(e2e::catalog::BUSYBOX).await?;
            let web = format!("httpd -p 8080 -h /srv; {STAY}");
            let third = count / 3;
            cluster.apply(&[
                deployment("by-exec", third, STAY, json!({"exec": {"command": ["true"]}})),
                deployment(
                    "by-http",
                    third,
                    &web,
                    json!({"httpGet": {"path": "/index.html", "port": 8080}}),
                ),
                deployment("by-tcp", count - 2 * third, &web, json!({"tcpSocket": {"port": 8080}})),
            ])?;
            let began = Instant::now();
            all_ready(cluster, count, 400).await?;
            println!("{count} pods ready after {:.0} s", began.elapsed().as_secs_f64());

            let began = Instant::now();
            let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
            let (mut deleted, mut execs, mut failed) = (0, 0, Vec::new());
            let (mut server_killed, mut kubelet_killed) = (Instant::now(), Instant::now());
            let (mut servers, mut kubelets) = (0, 0);
            let mut errands: Vec<Errand> = Vec::new();
            let mut memory = Vec::new();
            while began.elapsed() < Duration::from_secs(seconds) {
                let names: Vec<String> = pods(cluster)?
                    .iter()
                    .filter(|pod| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null())
                    .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
                    .collect();
                if names.len() > 1 {
                    let gone = &names[dice.below(names.len())];
                    cluster.kubectl(&["delete", "pod", gone, "--wait=false"])?;
                    deleted += 1;
                    let into = names[dice.below(names.len())].clone();
                    // Not into one that has just been told to leave.
                    if into != *gone {
                        let mut command = cluster.kubectl_command(&["exec", &into, "--", "echo", "inside"])?;
                        let client = command
                            .stdin(Stdio::null())
                            .stdout(Stdio::piped())
                            .stderr(Stdio::piped())
                            .spawn()?;
                        errands.push(Errand {
                            what: into,
                            client,
                            since: Instant::now(),
                        });
                    }
                }
                if server_killed.elapsed() > Duration::from_secs(if seconds > 300 { 60 } else { 30 }) {
                    // Those under way are cut by the kill, which is no fault.
                    finish(&mut errands, Duration::from_secs(20), &mut execs, &mut failed).await?;
                    if let Some(pid) = cluster.kubelet.node.daemon_pid() {
                        memory.extend(resident(pid));
                    }
                    cluster.kubelet.node.restart().await?;
                    (server_killed, servers) = (Instant::now(), servers + 1);
                }
                if kubelet_killed.elapsed() > Duration::from_secs(if seconds > 300 { 300 } else { 80 }) {
                    finish(&mut errands, Duration::from_secs(20), &mut execs, &mut failed).await?;
                    cluster.kubelet.kill_kubelet()?;
                    cluster.kubelet.start_kubelet().await?;
                    (kubelet_killed, kubelets) = (Instant::now(), kubelets + 1);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                finish(&mut errands, Duration::ZERO, &mut execs, &mut failed).await?;
            }
            finish(&mut errands, Duration::from_secs(30), &mut execs, &mut failed).await?;
            let settled = all_ready(cluster, count, 300).await?;
            memory.extend(cluster.kubelet.node.daemon_pid().and_then(resident));
            println!(
                "{seconds} s: {deleted} pods deleted, {execs} execs, server killed {servers} times, kubelet {kubelets} times; server's memory in kB: {memory:?}"
            );
            ensure!(servers > 0 && deleted > 10 && execs > 5, "too little happened");
            let restarted: Vec<&Value> = settled.iter().filter(|pod| restarts(pod) > 0).collect();
            ensure!(
                restarted.is_empty(),
                "restarted, and nobody asked for it: {restarted:#?}"
            );
            ensure!(failed.is_empty(), "execs failed: {failed:#?}");
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

/// Takes in the clients that are done; with patience, all of them.
async fn finish(errands: &mut Vec<Errand>, patience: Duration, done: &mut u32, failed: &mut Vec<String>) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let mut left = Vec::new();
        for mut errand in errands.drain(..) {
            if errand.client.try_wait()?.is_none() {
                left.push(errand);
                continue;
            }
            let output = errand.client.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // A pod that left in the meantime is not there to be exec'd into.
            let left_meanwhile = said.contains("not found")
                || said.contains("container not running")
                || output.status.code() == Some(137);
            if output.status.success() {
                *done += 1;
            } else if !left_meanwhile {
                failed.push(format!("{}: {} {said}", errand.what, output.status));
            }
        }
        *errands = left;
        if errands.is_empty() || Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for errand in errands
        .iter_mut()
        .filter(|errand| errand.since.elapsed() > Duration::from_secs(60))
    {
        failed.push(format!("{}: hangs since {:?}", errand.what, errand.since.elapsed()));
        errand.client.kill()?;
        errand.since = Instant::now();
    }
    Ok(())
}
