//! What is there before the server's death is there after it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, container, logs, pod, sleeper, test};
use proto::cri as v1;

#[test]
fn e9_pods_and_containers_survive_and_are_the_same() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let running = bed.sleeper("running").await?;
        let created = bed.create(&sleeper("created")).await?;
        let ended = bed.run(&container("ended", BUSYBOX, &["sh", "-c", "exit 9"])).await?;
        bed.cri.exited(&ended).await?;
        let pid = bed.cri.container_pid(&running).await?;
        let mut before = Vec::new();
        for id in [&running, &created, &ended] {
            before.push(bed.cri.container_status(id).await?);
        }
        let pod_before = bed.cri.pod_status(&bed.pod).await?;
        let cri = node.restart().await?;
        let mut after = Vec::new();
        for id in [&running, &created, &ended] {
            after.push(cri.container_status(id).await?);
        }
        ensure!(before == after, "before {before:#?}\nafter {after:#?}");
        let pod_after = cri.pod_status(&bed.pod).await?;
        ensure!(pod_before == pod_after, "before {pod_before:#?}\nafter {pod_after:#?}");
        ensure!(cri.container_pid(&running).await? == pid, "another process");
        // All of them go on working.
        ensure!(cri.sh(&running, "echo fine").await? == "fine\n", "exec");
        cri.start(&created).await?;
        ensure!(
            cri.sh(&created, "echo fine").await? == "fine\n",
            "exec in what was created before"
        );
        cri.stop(&running, 5).await?;
        ensure!(cri.container_status(&running).await?.exit_code == 0, "stop");
        Ok(())
    });
}

#[test]
fn e9_an_exit_while_the_server_is_away_has_its_code_and_time() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = container("main", BUSYBOX, &["sh", "-c", "echo ready; sleep 1; exit 42"]);
        let id = bed.run(&config).await?;
        logs::wait_for(&logs::path(&bed.config, &config), "ready").await?;
        node.kill_daemon()?;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
        node.start_daemon().await?;
        let status = node.cri().exited(&id).await?;
        ensure!(
            (status.exit_code == 42 && status.reason == "Error") || !node.ours(),
            "{} {}",
            status.exit_code,
            status.reason
        );
        // containerd without its shim's answer tells the time of its own start.
        ensure!(
            status.finished_at < now - 500_000_000 || !node.ours(),
            "finished_at is the time of the restart"
        );
        Ok(())
    });
}

#[test]
fn e9_names_stay_taken() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.create(&sleeper("main")).await?;
        let cri = node.restart().await?;
        match cri.create(&bed.pod, &sleeper("main"), &bed.config).await {
            Ok(again) => ensure!(again == id, "a second container"),
            Err(status) => ensure!(!node.ours() && status.message().contains("reserved"), "{status:?}"),
        }
        ensure!(cri.containers(None).await?.len() == 1, "twice");
        Ok(())
    });
}

#[test]
fn e9_many_restarts_change_nothing() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let before = bed.cri.container_status(&id).await?;
        for _ in 0..5 {
            let cri = node.restart().await?;
            ensure!(cri.container_status(&id).await? == before, "changed");
        }
        Ok(())
    });
}

#[test]
fn e9_a_clean_stop_of_the_server_ends_no_container() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut ids = Vec::new();
        for i in 0..10 {
            ids.push(bed.sleeper(&format!("c{i}")).await?);
        }
        // While its tasks are taken down the server must not take its own end for theirs.
        for _ in 0..12 {
            node.stop_daemon().await?;
            node.start_daemon().await?;
            let cri = node.cri();
            for id in &ids {
                let status = cri.container_status(id).await?;
                ensure!(
                    status.state() == v1::ContainerState::ContainerRunning,
                    "{} {}",
                    status.exit_code,
                    status.message
                );
            }
        }
        Ok(())
    });
}

#[test]
fn e1_an_unknown_outcome_is_255_unknown() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        node.kill_daemon()?;
        let monitors = e2e::leak::living(node.init())
            .into_iter()
            .filter(|process| process.comm.starts_with("conmon"));
        let monitors: Vec<String> = monitors.map(|process| process.pid.to_string()).collect();
        ensure!(!monitors.is_empty(), "no monitor is found");
        node.sh(&format!("kill -9 {}", monitors.join(" ")))?;
        node.start_daemon().await?;
        let status = node.cri().exited(&id).await?;
        ensure!(
            status.exit_code == 255 && status.reason == "Unknown" && status.finished_at > 0,
            "{status:?}"
        );
        // And no process of it goes on unseen.
        let left: Vec<_> = e2e::leak::living(node.init())
            .into_iter()
            .filter(|process| process.command.contains("sleep 100000"))
            .collect();
        ensure!(left.is_empty(), "still alive: {left:?}");
        Ok(())
    });
}

#[test]
fn e9_stop_and_remove_work_after_a_restart() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.sleeper("main").await?;
        let cri = node.restart().await?;
        cri.stop_pod(&bed.pod).await?;
        let cri = {
            drop(cri);
            node.restart().await?
        };
        ensure!(
            cri.pod_status(&bed.pod).await?.state() == v1::PodSandboxState::SandboxNotready,
            "ready again"
        );
        cri.remove_pod(&bed.pod).await?;
        Ok(())
    });
}

#[test]
fn e9_killed_at_random_while_pods_come_and_go() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            // containerd leaves namespaces behind.
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let bystander = bed.sleeper("bystander").await?;
        let pid = bed.cri.container_pid(&bystander).await?;
        for round in 0..6 {
            let cri = node.cri();
            let configs: Vec<_> = (0..3).map(|number| pod(node, &format!("r{round}-{number}"))).collect();
            let mut tasks = tokio::task::JoinSet::new();
            for config in configs.clone() {
                let cri = cri.clone();
                tasks.spawn(async move {
                    let id = cri.run_pod(&config).await?;
                    let container = cri.run(&id, &sleeper("c"), &config).await?;
                    cri.stop(&container, 2).await?;
                    cri.stop_pod(&id).await?;
                    cri.remove_pod(&id).await
                });
            }
            tokio::time::sleep(Duration::from_millis(7 + 23 * round)).await;
            node.kill_daemon()?;
            tasks.join_all().await;
            node.start_daemon().await?;
            // The kubelet's view of it: what is listed can be removed; what is asked again is made.
            let cri = node.cri();
            for there in cri.pods(None).await?.iter().filter(|there| there.id != bed.pod) {
                cri.stop_pod(&there.id).await?;
                cri.remove_pod(&there.id).await?;
            }
            let id = cri.run_pod(&configs[0]).await?;
            cri.stop_pod(&id).await?;
            cri.remove_pod(&id).await?;
            ensure!(
                cri.container_pid(&bystander).await? == pid,
                "the bystander was hurt in round {round}"
            );
        }
        Ok(())
    });
}
