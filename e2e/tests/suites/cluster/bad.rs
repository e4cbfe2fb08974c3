//! Pods that cannot be: `kubectl describe pod` says why, in words that tell what to change.

use anyhow::{Context, Result, ensure};
use e2e::kube::cluster::test;
use e2e::kube::pods::{STAY, pod, shell};
use serde_json::{Value, json};

#[test]
#[expect(clippy::too_many_lines, reason = "a table of pods, one after another")]
fn what_is_wrong_with_a_pod_is_in_its_description() {
    test(async |cluster| -> Result<()> {
        let file = cluster.kubelet.dir().join("a-file");
        std::fs::write(&file, "")?;
        let simple = |name: &str, more: Value, spec: Value| pod(name, &[shell("main", STAY, more)], spec);
        let host_path = json!({"volumes": [{"name": "v", "hostPath": {"path": file, "type": "Directory"}}]});
        let wrong: Vec<(Value, &[&str])> = vec![
            (
                simple(
                    "image-name",
                    json!({"image": "127.0.0.1:5000/Upper:Case:Twice"}),
                    json!({}),
                ),
                &["InvalidImageName", "Upper:Case:Twice"],
            ),
            (
                simple(
                    "image-tag",
                    json!({"image": "127.0.0.1:5000/busybox:no-such-tag"}),
                    json!({}),
                ),
                &["no-such-tag", "Not Found"],
            ),
            (
                simple(
                    "config-map",
                    json!({"envFrom": [{"configMapRef": {"name": "absent"}}]}),
                    json!({}),
                ),
                &["configmap \"absent\" not found"],
            ),
            (
                simple(
                    "sysctl",
                    json!({}),
                    json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
                ),
                &["SysctlForbidden", "kernel.msgmax"],
            ),
            (
                simple(
                    "host-path",
                    json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
                    host_path,
                ),
                &["FailedMount", "is not a directory"],
            ),
            (
                simple("handler", json!({}), json!({"runtimeClassName": "unknown-handler"})),
                &["FailedCreatePodSandBox", "no runtime handler", "no-such-handler"],
            ),
            (
                simple("program", json!({"command": ["/no/such/program"]}), json!({})),
                &["/no/such/program", "no such file"],
            ),
            (
                simple("user", json!({"securityContext": {"runAsNonRoot": true}}), json!({})),
                &["runAsNonRoot"],
            ),
            (
                simple(
                    "too-large",
                    json!({"resources": {"requests": {"memory": "900Ti"}}}),
                    json!({}),
                ),
                &["FailedScheduling", "Insufficient memory"],
            ),
            (
                simple(
                    "too-small",
                    json!({"resources": {"limits": {"memory": "1Ki"}}}),
                    json!({}),
                ),
                &["memory"],
            ),
            (
                simple("working-dir", json!({"workingDir": "relative"}), json!({})),
                &["relative"],
            ),
        ];
        let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "unknown-handler"}, "handler": "no-such-handler"});
        cluster.apply(&[class])?;
        let pods: Vec<Value> = wrong.iter().map(|(pod, _)| pod.clone()).collect();
        cluster.apply(&pods)?;
        for (pod, words) in &wrong {
            let name = pod["metadata"]["name"].as_str().context("no name")?;
            let mut last = String::new();
            let what = format!("{name} says {words:?}");
            let said = cluster.eventually(&what, 90, || {
                last = cluster.kubectl(&["describe", "pod", name])?;
                Ok(words.iter().all(|word| last.contains(word)).then_some(()))
            });
            let said = said.await;
            said.with_context(|| last.clone())?;
        }
        // What the API server refuses itself never comes to a node.
        let refused = simple("class", json!({}), json!({"runtimeClassName": "absent"}));
        let error = cluster
            .apply(&[refused])
            .err()
            .context("a pod of an unknown class was taken")?;
        ensure!(
            format!("{error:#}").contains("RuntimeClass \"absent\" not found"),
            "{error:#}"
        );
        Ok(())
    });
}

/// A port that is taken: the scheduler says it, and a container that finds it taken says it in its log.
#[test]
fn a_port_in_use_is_told() {
    test(async |cluster| -> Result<()> {
        let main = |name: &str| {
            let main = shell(
                "main",
                STAY,
                json!({"ports": [{"containerPort": 80, "hostPort": 18081}]}),
            );
            pod(name, &[main], json!({}))
        };
        cluster.apply(&[main("first-of-two")])?;
        cluster
            .until("first-of-two", "ready", 60, e2e::kube::pods::is_ready)
            .await?;
        cluster.apply(&[main("second-of-two")])?;
        let mut last = String::new();
        let said = cluster.eventually("the description names the ports", 60, || {
            last = cluster.kubectl(&["describe", "pod", "second-of-two"])?;
            Ok(last.contains("didn't have free ports").then_some(()))
        });
        let said = said.await;
        said.with_context(|| last.clone())?;
        Ok(())
    });
}
