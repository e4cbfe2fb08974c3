//! The pods' figures in the summary interface come from our statistics.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kube::kubelet::{NAME, Settings, test_with};
use e2e::kube::pods::{pod, shell};
use e2e::wait;
use serde_json::{Value, json};

#[test]
fn the_summary_and_cadvisor_have_our_figures() {
    let settings = Settings {
        config: json!({"featureGates": {"PodAndContainerStatsFromCRI": true}}),
        ..Settings::default()
    };
    test_with(settings, async |kubelet| -> Result<()> {
        let busy = "dd if=/dev/zero of=/tmp/file bs=1M count=3 2>/dev/null; trap 'exit 0' TERM; while true; do :; done";
        kubelet.apply(&pod(
            "busy",
            &[shell(
                "main",
                busy,
                json!({"resources": {"limits": {"cpu": "200m", "memory": "64Mi"}}}),
            )],
            json!({}),
        ))?;
        kubelet.ready("busy").await?;
        let full = format!("busy-{NAME}");
        let there = wait::until(
            "the summary has the pod's figures",
            Duration::from_secs(60),
            async || {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let summary: Value = serde_json::from_str(&kubelet.get("/stats/summary")?)?;
                let found = summary["pods"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|one| one["podRef"]["name"] == full.as_str())
                    .cloned();
                let Some(found) = found else { return Ok(None) };
                let one = &found["containers"][0];
                let usage = one["cpu"]["usageCoreNanoSeconds"].as_u64();
                let files = one["rootfs"]["usedBytes"].as_u64();
                let all = usage > Some(100_000_000)
                    && one["cpu"]["usageNanoCores"].as_u64() > Some(0)
                    && one["memory"]["workingSetBytes"].as_u64() > Some(0)
                    && files >= Some(3 << 20)
                    && found["network"]["rxBytes"].is_number()
                    && found["process_stats"]["process_count"].as_u64() >= Some(1);
                Ok(all.then_some(found))
            },
        );
        let there = there
            .await
            .with_context(|| kubelet.get("/stats/summary").unwrap_or_default())?;
        let cores = there["containers"][0]["cpu"]["usageNanoCores"]
            .as_u64()
            .unwrap_or_default();
        ensure!(
            cores < 400_000_000,
            "{cores} nanocores in a container that may use 200 m"
        );
        let metrics = wait::until(
            "cAdvisor's page has the container",
            Duration::from_secs(30),
            async || {
                let text = kubelet.get("/metrics/cadvisor")?;
                let lines: Vec<String> = text
                    .lines()
                    .filter(|line| line.contains(&full))
                    .map(str::to_owned)
                    .collect();
                Ok((!lines.is_empty()).then_some(lines))
            },
        )
        .await?;
        for name in [
            "container_cpu_usage_seconds_total",
            "container_memory_working_set_bytes",
            "container_network_receive_bytes_total",
        ] {
            ensure!(
                metrics.iter().any(|line| line.starts_with(name)),
                "no {name} in {metrics:#?}"
            );
        }
        Ok(())
    });
}
