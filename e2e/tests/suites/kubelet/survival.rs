//! The kubelet and the server are killed and started again while pods run, alone and together.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::kube::kubelet::{Kubelet, test};
use e2e::kube::pods::{STAY, agnhost, is_ready, pod, restarts, shell};
use serde_json::{Value, json};

/// What must not change: the pods' uids, their containers' ids, and that nothing was restarted.
fn identity(pod: &Value) -> Vec<String> {
    let mut all = vec![pod["metadata"]["uid"].to_string(), pod["status"]["podIP"].to_string()];
    for list in ["containerStatuses", "initContainerStatuses"] {
        let statuses = pod["status"][list].as_array().into_iter().flatten();
        all.extend(statuses.map(|one| format!("{} {}", one["containerID"], one["restartCount"])));
    }
    all
}

async fn unchanged(kubelet: &Kubelet, before: &[(String, Value)], what: &str) -> Result<()> {
    for (name, was) in before {
        let is = kubelet.until(name, "ready again", 60, is_ready).await?;
        ensure!(
            identity(was) == identity(&is),
            "{what}: {name} was {:#?} and is {:#?}",
            identity(was),
            identity(&is)
        );
    }
    Ok(())
}

#[test]
fn no_container_is_restarted_by_restarts_of_kubelet_and_server() {
    test(async |kubelet| -> Result<()> {
        let probe = json!({"livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 3, "timeoutSeconds": 5}});
        let web = json!({"livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 3},
                         "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}});
        let side = json!({"initContainers": [shell("side", STAY, json!({"restartPolicy": "Always"}))]});
        let names = ["one", "two", "three"];
        kubelet.apply(&pod(
            "one",
            &[shell("main", STAY, probe.clone()), shell("other", STAY, probe)],
            side,
        ))?;
        kubelet.apply(&pod(
            "two",
            &[agnhost("main", &["netexec", "--http-port=8080", "--udp-port=-1"], web)],
            json!({}),
        ))?;
        kubelet.apply(&pod(
            "three",
            &[shell("main", STAY, json!({}))],
            json!({"hostNetwork": true, "shareProcessNamespace": true}),
        ))?;
        let mut before = Vec::new();
        for name in names {
            before.push((name.to_owned(), kubelet.ready(name).await?));
        }
        ensure!(
            before.iter().all(|(_, pod)| restarts(pod) == 0),
            "restarted before anything happened"
        );
        kubelet.kill_kubelet()?;
        kubelet.start_kubelet().await?;
        unchanged(kubelet, &before, "after a restart of the kubelet").await?;
        kubelet.node.kill_daemon()?;
        // Long enough for probes and syncs to find nobody.
        tokio::time::sleep(Duration::from_secs(3)).await;
        kubelet.node.start_daemon().await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        unchanged(kubelet, &before, "after a restart of the server").await?;
        kubelet.kill_kubelet()?;
        kubelet.node.kill_daemon()?;
        kubelet.node.start_daemon().await?;
        kubelet.start_kubelet().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        unchanged(kubelet, &before, "after a restart of both").await
    });
}

#[test]
fn what_ends_while_the_server_is_away_is_started_again_after() {
    test(async |kubelet| -> Result<()> {
        let script = format!(
            "if [ -e /keep/second ]; then {STAY}; fi; touch /keep/second; while [ ! -e /keep/go ]; do sleep 0.1; done; exit 42"
        );
        let main = shell(
            "main",
            &script,
            json!({"volumeMounts": [{"name": "keep", "mountPath": "/keep"}]}),
        );
        let keep = kubelet.dir().join("keep");
        std::fs::create_dir_all(&keep)?;
        kubelet.apply(&pod(
            "ends",
            &[main],
            json!({"volumes": [{"name": "keep", "hostPath": {"path": keep}}]}),
        ))?;
        kubelet.ready("ends").await?;
        kubelet.node.kill_daemon()?;
        std::fs::write(keep.join("go"), "")?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        kubelet.node.start_daemon().await?;
        let pod = kubelet
            .until("ends", "restarted once", 90, |pod| restarts(pod) == 1 && is_ready(pod))
            .await?;
        let last = &e2e::kube::pods::container(&pod, "main")?["lastState"]["terminated"];
        ensure!(last["exitCode"] == 42 && last["reason"] == "Error", "{last:#}");
        Ok(())
    });
}
