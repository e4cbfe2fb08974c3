//! How containers end: restart policies and back-off, messages, grace.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::kube::kubelet::test;
use e2e::kube::pods::{STAY, container, pod, shell};
use serde_json::json;

#[test]
fn restart_policies_and_back_off_are_kept() {
    test(async |kubelet| -> Result<()> {
        kubelet.apply(&pod(
            "never",
            &[shell("main", "exit 3", json!({}))],
            json!({"restartPolicy": "Never"}),
        ))?;
        kubelet.apply(&pod(
            "done",
            &[shell("main", "exit 0", json!({}))],
            json!({"restartPolicy": "OnFailure"}),
        ))?;
        kubelet.apply(&pod(
            "failure",
            &[shell("main", "exit 4", json!({}))],
            json!({"restartPolicy": "OnFailure"}),
        ))?;
        kubelet.apply(&pod(
            "always",
            &[shell("main", "exit 0", json!({}))],
            json!({"restartPolicy": "Always"}),
        ))?;
        let never = kubelet
            .until("never", "failed", 60, |pod| pod["status"]["phase"] == "Failed")
            .await?;
        let state = container(&never, "main")?;
        ensure!(
            state["restartCount"] == 0 && state["state"]["terminated"]["exitCode"] == 3,
            "{state:#}"
        );
        ensure!(state["state"]["terminated"]["reason"] == "Error", "{state:#}");
        let done = kubelet
            .until("done", "succeeded", 60, |pod| pod["status"]["phase"] == "Succeeded")
            .await?;
        ensure!(
            container(&done, "main")?["state"]["terminated"]["reason"] == "Completed",
            "{:#}",
            done["status"]
        );
        for name in ["failure", "always"] {
            let waiting = kubelet
                .until(name, "in back-off after restarts", 90, |pod| {
                    container(pod, "main").is_ok_and(|main| {
                        main["restartCount"].as_u64() >= Some(1)
                            && main["state"]["waiting"]["reason"] == "CrashLoopBackOff"
                    })
                })
                .await?;
            let last = &container(&waiting, "main")?["lastState"]["terminated"];
            ensure!(last["exitCode"] == if name == "failure" { 4 } else { 0 }, "{last:#}");
        }
        Ok(())
    });
}

#[test]
fn termination_messages_come_from_the_file_or_the_log() {
    test(async |kubelet| -> Result<()> {
        let never = json!({"restartPolicy": "Never"});
        let file = shell(
            "main",
            "echo -n from the file > /dev/termination-log; echo not this; exit 1",
            json!({}),
        );
        let named = shell(
            "main",
            "echo -n named > /tmp/why; exit 1",
            json!({"terminationMessagePath": "/tmp/why"}),
        );
        let log = shell(
            "main",
            "echo from the log; exit 1",
            json!({"terminationMessagePolicy": "FallbackToLogsOnError"}),
        );
        for (name, main) in [("file", file), ("named", named), ("log", log)] {
            kubelet.apply(&pod(name, &[main], never.clone()))?;
        }
        for (name, wanted) in [("file", "from the file"), ("named", "named"), ("log", "from the log\n")] {
            let pod = kubelet
                .until(name, "failed", 60, |pod| pod["status"]["phase"] == "Failed")
                .await?;
            let said = &container(&pod, "main")?["state"]["terminated"]["message"];
            ensure!(said == wanted, "{name}: {said}");
        }
        Ok(())
    });
}

#[test]
fn a_stop_gives_the_grace_and_no_more() {
    test(async |kubelet| -> Result<()> {
        let out = kubelet.dir().join("out");
        std::fs::create_dir_all(&out)?;
        let spec = |grace: u64| json!({"terminationGracePeriodSeconds": grace, "volumes": [{"name": "out", "hostPath": {"path": out}}]});
        let mount = json!({"volumeMounts": [{"name": "out", "mountPath": "/out"}]});
        let polite = "trap 'echo heard > /out/polite; sleep 2; echo finished >> /out/polite; exit 0' TERM; while true; do sleep 0.1; done";
        let deaf = "trap '' TERM; while true; do sleep 0.1; done";
        kubelet.apply(&pod("polite", &[shell("main", polite, mount.clone())], spec(30)))?;
        kubelet.apply(&pod("deaf", &[shell("main", deaf, mount)], spec(3)))?;
        kubelet.ready("polite").await?;
        kubelet.ready("deaf").await?;
        let began = Instant::now();
        kubelet.delete("polite")?;
        kubelet.delete("deaf")?;
        kubelet.gone("polite").await?;
        let polite = began.elapsed();
        kubelet.gone("deaf").await?;
        ensure!(
            std::fs::read_to_string(out.join("polite"))? == "heard\nfinished\n",
            "not in peace"
        );
        ensure!(
            polite < Duration::from_secs(20),
            "the polite one took {polite:?} of its 30 s"
        );
        ensure!(began.elapsed() > Duration::from_secs(3), "the deaf one had no grace");
        Ok(())
    });
}

#[test]
fn a_pod_that_is_changed_is_replaced() {
    test(async |kubelet| -> Result<()> {
        let version = |word: &str| {
            pod(
                "changed",
                &[shell("main", &format!("echo {word}; {STAY}"), json!({}))],
                json!({}),
            )
        };
        kubelet.apply(&version("one"))?;
        let first = kubelet.ready("changed").await?;
        kubelet.apply(&version("two"))?;
        let uid = first["metadata"]["uid"].clone();
        kubelet
            .until("changed", "replaced", 60, |pod| {
                pod["metadata"]["uid"] != uid && e2e::kube::pods::is_ready(pod)
            })
            .await?;
        kubelet
            .logged("changed", "main", |log| {
                log == "two
"
            })
            .await?;
        Ok(())
    });
}
