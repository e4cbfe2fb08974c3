//! What controllers make of pods: roll-outs, jobs, daemon sets, resizing, eviction, a drained node.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::kube::cluster::test;
use e2e::kube::kubelet::NAME;
use e2e::kube::pods::{STAY, container, is_ready, pod, restarts, shell};
use serde_json::{Value, json};

fn workload(kind: &str, name: &str, containers: &[Value], spec: Value) -> Value {
    let template = pod(name, containers, json!({}));
    let mut object = json!({
        "apiVersion": if kind == "Job" { "batch/v1" } else { "apps/v1" }, "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"metadata": {"labels": {"app": name}}, "spec": template["spec"]}},
    });
    if kind != "Job" {
        object["spec"]["selector"] = json!({"matchLabels": {"app": name}});
    }
    e2e::kube::pods::merge(&mut object["spec"], spec);
    object
}

#[test]
fn deployments_jobs_and_daemon_sets_run_and_a_node_is_drained() {
    test(async |cluster| -> Result<()> {
        println!("cluster ready after {:.1} s", cluster.took.as_secs_f64());
        let web = |image: &str| {
            let main = shell(
                "main",
                STAY,
                json!({"image": image, "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}),
            );
            workload("Deployment", "web", &[main], json!({"replicas": 3}))
        };
        // Pulled before, so that the time is the runtime's.
        cluster.kubelet.node.cri().pull(e2e::catalog::BUSYBOX).await?;
        cluster.kubelet.node.cri().pull("127.0.0.1:5000/busybox:2").await?;
        let began = Instant::now();
        cluster.apply(&[web(e2e::catalog::BUSYBOX)])?;
        cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
        println!("three replicas after {:.1} s", began.elapsed().as_secs_f64());
        cluster.apply(&[web("127.0.0.1:5000/busybox:2")])?;
        cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
        let pods = cluster.get(&["pods", "-l", "app=web"])?;
        let images: Vec<&Value> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| &pod["status"]["containerStatuses"][0]["image"])
            .collect();
        ensure!(
            images.len() == 3 && images.iter().all(|image| **image == "127.0.0.1:5000/busybox:2"),
            "{images:?}"
        );
        let job = workload(
            "Job",
            "sums",
            &[shell("main", "echo $((6 * 7))", json!({}))],
            json!({"completions": 3, "parallelism": 2, "template": {"spec": {"restartPolicy": "Never"}}}),
        );
        let set = workload(
            "DaemonSet",
            "agent",
            &[shell("main", STAY, json!({}))],
            json!({"template": {"spec": {"hostNetwork": true, "hostPID": true}}}),
        );
        cluster.apply(&[job, set])?;
        cluster.kubectl(&["wait", "--for=condition=complete", "job/sums", "--timeout=120s"])?;
        let log = cluster.kubectl(&["logs", "job/sums"])?;
        ensure!(log == "42\n", "{log}");
        cluster.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=120s"])?;
        let began = Instant::now();
        cluster.kubectl(&["delete", "pod", "-l", "app=web", "--wait=true", "--timeout=60s"])?;
        println!("three pods deleted after {:.1} s", began.elapsed().as_secs_f64());
        cluster.kubectl(&[
            "drain",
            NAME,
            "--ignore-daemonsets",
            "--force",
            "--delete-emptydir-data",
            "--timeout=120s",
        ])?;
        let left = cluster.get(&[
            "pods",
            "-l",
            "app=web",
            "--field-selector",
            &format!("spec.nodeName={NAME}"),
        ])?;
        ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "{left:#}");
        let agents = cluster.get(&["pods", "-l", "app=agent"])?;
        ensure!(
            agents["items"].as_array().is_some_and(|all| all.iter().all(is_ready)),
            "{agents:#}"
        );
        cluster.kubectl(&["uncordon", NAME])?;
        cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"])?;
        Ok(())
    });
}

#[test]
fn a_pod_is_resized_in_place() {
    test(async |cluster| -> Result<()> {
        let limits = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
        let main = shell("main", STAY, json!({"resources": limits("100m", "64Mi")}));
        cluster.apply(&[pod("grows", &[main], json!({}))])?;
        let before = cluster.until("grows", "ready", 60, is_ready).await?;
        let patch = json!({"spec": {"containers": [{"name": "main", "resources": limits("200m", "128Mi")}]}});
        cluster.kubectl(&[
            "patch",
            "pod",
            "grows",
            "--subresource",
            "resize",
            "--patch",
            &patch.to_string(),
        ])?;
        let after = cluster
            .until("grows", "resized", 90, |pod| {
                container(pod, "main").is_ok_and(|main| {
                    main["resources"]["limits"]["memory"] == "128Mi" && main["resources"]["limits"]["cpu"] == "200m"
                })
            })
            .await?;
        ensure!(restarts(&after) == 0, "{:#}", after["status"]);
        ensure!(
            container(&before, "main")?["containerID"] == container(&after, "main")?["containerID"],
            "another container"
        );
        let id = container(&after, "main")?["containerID"]
            .as_str()
            .unwrap_or_default()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let resources = cluster
            .kubelet
            .node
            .cri()
            .container_status(&id)
            .await?
            .resources
            .and_then(|all| all.linux)
            .context("no resources")?;
        ensure!(
            resources.memory_limit_in_bytes == 128 << 20 && resources.cpu_quota * 5 == resources.cpu_period,
            "{resources:?}"
        );
        let shrink = json!({"spec": {"containers": [{"name": "main", "resources": limits("50m", "64Mi")}]}});
        cluster.kubectl(&[
            "patch",
            "pod",
            "grows",
            "--subresource",
            "resize",
            "--patch",
            &shrink.to_string(),
        ])?;
        cluster
            .until("grows", "made smaller", 90, |pod| {
                container(pod, "main").is_ok_and(|main| main["resources"]["limits"]["memory"] == "64Mi")
            })
            .await?;
        Ok(())
    });
}

#[test]
fn a_pod_over_its_ephemeral_storage_is_evicted() {
    test(async |cluster| -> Result<()> {
        let main = shell(
            "main",
            // An end with 0 could be told as Succeeded, before the kubelet has said that it was an eviction.
            "dd if=/dev/zero of=/tmp/file bs=1M count=20 2>/dev/null; trap 'exit 3' TERM; sleep 100000 & wait",
            json!({"resources": {"limits": {"ephemeral-storage": "4Mi"}}}),
        );
        cluster.apply(&[pod("greedy", &[main], json!({"restartPolicy": "Never"}))])?;
        let evicted = cluster
            .until("greedy", "evicted", 180, |pod| pod["status"]["reason"] == "Evicted")
            .await?;
        let message = evicted["status"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains("ephemeral"), "{message}");
        Ok(())
    });
}
