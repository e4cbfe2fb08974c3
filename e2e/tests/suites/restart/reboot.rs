//! After a reboot nothing runs, and nothing says that it does.

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, container, pod, sleeper, test};
use proto::cri as v1;

#[test]
fn e9_after_a_reboot_nothing_is_said_to_run() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let running = bed.sleeper("running").await?;
        let created = bed.create(&sleeper("created")).await?;
        let ended = bed.run(&container("ended", BUSYBOX, &["sh", "-c", "exit 9"])).await?;
        let before = bed.cri.exited(&ended).await?;
        node.reboot().await?;

        let cri = node.cri();
        for id in [&running, &created] {
            let status = cri.container_status(id).await?;
            ensure!(
                status.state() == v1::ContainerState::ContainerExited
                    && status.exit_code == 255
                    && status.reason == "Unknown"
                    && status.finished_at >= status.started_at
                    && status.finished_at > 0,
                "{status:?}"
            );
        }
        ensure!(
            cri.container_status(&ended).await? == before,
            "what had ended before has another end"
        );
        let state = cri.pod_status(&bed.pod).await?.state();
        ensure!(state == v1::PodSandboxState::SandboxNotready, "{state:?}");
        ensure!(cri.image(BUSYBOX).await?.is_some(), "the image is lost");
        ensure!(cri.stats_list(None).await?.is_empty(), "figures of what does not run");

        // As the kubelet goes on: the next attempt of the same pod, then the old one goes.
        let mut next = bed.config.clone();
        next.metadata.get_or_insert_default().attempt += 1;
        let again = cri.run_pod(&next).await?;
        let id = cri.run(&again, &sleeper("running"), &next).await?;
        ensure!(cri.sh(&id, "echo fine").await? == "fine\n", "exec");
        cri.stop_pod(&bed.pod).await?;
        cri.remove_pod(&bed.pod).await?;
        ensure!(
            cri.sh(&id, "echo fine").await? == "fine\n",
            "exec after the old pod went"
        );
        Ok(())
    });
}

#[test]
fn e9_what_was_being_made_at_the_power_cut_is_gone_after_it() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        for round in 0..3_u64 {
            let config = pod(node, &format!("cut-{round}"));
            let task = tokio::spawn({
                let (cri, config) = (cri.clone(), config.clone());
                async move {
                    let id = cri.run_pod(&config).await?;
                    cri.run(&id, &sleeper("c"), &config).await
                }
            });
            tokio::time::sleep(std::time::Duration::from_millis(3 + 4 * round)).await;
            node.reboot().await?;
            drop(task.await);
            let cri = node.cri();
            for there in cri.pods(None).await? {
                ensure!(there.state() == v1::PodSandboxState::SandboxNotready, "{there:?}");
                cri.remove_pod(&there.id).await?;
            }
            // The name is free.
            let id = cri.run_pod(&config).await?;
            cri.stop_pod(&id).await?;
            cri.remove_pod(&id).await?;
        }
        Ok(())
    });
}
