//! Probes of all four kinds, when they succeed and when they begin to fail.

use anyhow::{Result, ensure};
use e2e::kube::kubelet::test;
use e2e::kube::pods::{STAY, agnhost, container, pod, restarts, shell};
use serde_json::json;

#[test]
fn probes_of_every_kind_make_a_pod_ready() {
    test(async |kubelet| -> Result<()> {
        let often = |mut probe: serde_json::Value| {
            probe["periodSeconds"] = json!(1);
            probe["failureThreshold"] = json!(20);
            probe
        };
        let probes = |probe: serde_json::Value| json!({"startupProbe": often(probe.clone()), "readinessProbe": often(probe.clone()), "livenessProbe": often(probe)});
        let containers = [
            shell(
                "exec",
                &format!("sleep 1; touch /tmp/up; {STAY}"),
                probes(json!({"exec": {"command": ["cat", "/tmp/up"]}})),
            ),
            agnhost(
                "http",
                &["netexec", "--http-port=8080", "--udp-port=8081"],
                probes(json!({"httpGet": {"path": "/hostname", "port": 8080}})),
            ),
            agnhost(
                "tcp",
                &["netexec", "--http-port=8090", "--udp-port=8091"],
                probes(json!({"tcpSocket": {"port": 8090}})),
            ),
            agnhost(
                "grpc",
                &["grpc-health-checking", "--port=5000", "--http-port=8100"],
                probes(json!({"grpc": {"port": 5000}})),
            ),
        ];
        kubelet.apply(&pod("probes", &containers, json!({})))?;
        kubelet.ready("probes").await?;
        // Ten rounds of twelve probes: none may fail for our sake.
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        let status = kubelet.ready("probes").await?;
        ensure!(restarts(&status) == 0, "{:#}", status["status"]);
        let metrics = kubelet.get("/metrics/probes")?;
        let successful = |kind: &str| {
            metrics
                .lines()
                .filter(|line| {
                    line.starts_with("prober_probe_total{")
                        && line.contains(kind)
                        && line.contains("result=\"successful\"")
                })
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum::<f64>()
        };
        ensure!(successful("probe_type=\"Liveness\"") >= 20.0, "{metrics}");
        let failed: Vec<_> = metrics
            .lines()
            .filter(|line| {
                line.contains("probe_type=\"Liveness\"") && line.contains("result=\"failed\"") && !line.ends_with(" 0")
            })
            .collect();
        ensure!(failed.is_empty(), "{failed:?}");
        Ok(())
    });
}

#[test]
fn a_failing_liveness_probe_restarts_its_container_alone() {
    test(async |kubelet| -> Result<()> {
        let probe = |probe: serde_json::Value| {
            let mut probe = probe;
            probe["periodSeconds"] = json!(1);
            probe["failureThreshold"] = json!(1);
            json!({"livenessProbe": probe})
        };
        let containers = [
            shell("exec", STAY, probe(json!({"exec": {"command": ["false"]}}))),
            shell(
                "http",
                "exec httpd -f -p 8080 -h /srv",
                probe(json!({"httpGet": {"path": "/no-such-page", "port": 8080}})),
            ),
            shell("tcp", STAY, probe(json!({"tcpSocket": {"port": 9}}))),
            // The probe's own limit is one second; what it started must be gone after it.
            shell(
                "slow",
                STAY,
                probe(json!({"exec": {"command": ["sleep", "4321"]}, "timeoutSeconds": 1})),
            ),
            shell("bystander", STAY, json!({})),
        ];
        kubelet.apply(&pod(
            "failing",
            &containers,
            json!({"terminationGracePeriodSeconds": 1}),
        ))?;
        let all = ["exec", "http", "tcp", "slow"];
        let status = kubelet
            .until("failing", "four containers were restarted", 90, |pod| {
                all.iter()
                    .all(|name| container(pod, name).is_ok_and(|one| one["restartCount"].as_u64() >= Some(1)))
            })
            .await?;
        ensure!(
            container(&status, "bystander")?["restartCount"] == 0,
            "{:#}",
            status["status"]
        );
        let reason = &container(&status, "exec")?["lastState"]["terminated"];
        ensure!(reason["finishedAt"].is_string(), "{reason:#}");
        Ok(())
    });
}
