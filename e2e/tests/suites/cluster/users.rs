//! Pods in user namespaces, as a controller makes them.

use anyhow::{Context, Result, ensure};
use e2e::kube::cluster::test;
use e2e::kube::pods::{STAY, pod, shell};
use serde_json::{Value, json};

/// Each pod has ids of its own, its token and volumes are root's inside, and kubectl reaches into it as ever.
#[test]
fn pods_in_user_namespaces_have_ids_of_their_own() {
    test(async |cluster| -> Result<()> {
        let main = shell(
            "main",
            STAY,
            json!({"volumeMounts": [{"name": "disk", "mountPath": "/disk"}],
                   "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}),
        );
        let template = pod(
            "apart",
            &[main],
            json!({"hostUsers": false, "volumes": [{"name": "disk", "emptyDir": {}}]}),
        );
        cluster.apply(&[json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "apart", "namespace": "default"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "apart"}},
                     "template": {"metadata": {"labels": {"app": "apart"}}, "spec": template["spec"]}},
        })])?;
        cluster.kubectl(&["rollout", "status", "deployment/apart", "--timeout=120s"])?;
        let pods = cluster.get(&["pods", "-l", "app=apart"])?;
        let names: Vec<&str> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pod: &Value| pod["metadata"]["name"].as_str())
            .collect();
        ensure!(names.len() == 2, "{names:?}");
        let mut starts = Vec::new();
        for name in names {
            let script = "cat /proc/self/uid_map; touch /disk/file; stat -c %u /disk/file /etc/hosts; \
                          head -c 3 /var/run/secrets/kubernetes.io/serviceaccount/token";
            let said = cluster.kubectl(&["exec", name, "--", "sh", "-c", script])?;
            let lines: Vec<&str> = said.lines().collect();
            let map: Vec<u64> = lines
                .first()
                .context("no map")?
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()?;
            ensure!(map.len() == 3 && map[0] == 0 && map[1] >= 65_536, "{said}");
            ensure!(lines[1..] == ["0", "0", "eyJ"], "{said}");
            starts.push(map[1]);
        }
        ensure!(starts[0] != starts[1], "both pods have the ids from {} on", starts[0]);
        Ok(())
    });
}
