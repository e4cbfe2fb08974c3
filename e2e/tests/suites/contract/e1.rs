//! E1: container state, exit, reason.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::limits::Kernel;
use e2e::{Bed, container, logs, sleeper, test};
use proto::cri as v1;

#[test]
fn e1_a_frozen_container_is_running() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let kernel = Kernel::of(node, &bed.cri, &id).await?;
        kernel.freeze(true)?;
        let status = bed.cri.container_status(&id).await;
        kernel.freeze(false)?;
        let status = status?;
        ensure!(
            status.state() == v1::ContainerState::ContainerRunning,
            "{:?}",
            status.state()
        );
        ensure!(status.finished_at == 0, "{status:?}");
        Ok(())
    });
}

#[test]
fn e1_lists_tell_state_and_creation_as_the_status_does() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let created = bed.create(&sleeper("created")).await?;
        let running = bed.sleeper("running").await?;
        let exited = bed.run(&container("exited", BUSYBOX, &["true"])).await?;
        bed.cri.exited(&exited).await?;
        let listed = bed.cri.containers(None).await?;
        for id in [created, running, exited] {
            let status = bed.cri.container_status(&id).await?;
            let entry = listed.iter().find(|entry| entry.id == id).context("not listed")?;
            ensure!(
                entry.state == status.state && entry.created_at == status.created_at && entry.created_at > 0,
                "{entry:?} {status:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn e1_the_time_of_the_exit_survives_restarts() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.run(&container("main", BUSYBOX, &["sh", "-c", "exit 9"])).await?;
        let before = bed.cri.exited(&id).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after = node.restart().await?.container_status(&id).await?;
        ensure!(
            after.finished_at == before.finished_at
                && after.started_at == before.started_at
                && after.created_at == before.created_at,
            "{before:?} {after:?}"
        );
        ensure!(after.exit_code == 9 && after.reason == before.reason, "{after:?}");
        ensure!(after.finished_at >= after.started_at, "ended before its start");
        Ok(())
    });
}

#[test]
fn e1_messages_are_short() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let program = format!("/{}", "x".repeat(20_000));
        let id = bed.create(&container("main", BUSYBOX, &[&program])).await?;
        let refused = bed.cri.start(&id).await;
        ensure!(
            refused.is_err_and(|status| status.message().len() <= 4096),
            "no error, or a long one"
        );
        let status = bed.cri.container_status(&id).await?;
        ensure!(
            status.reason == "StartError" && !status.message.is_empty() && status.message.len() <= 4096,
            "{} and {} bytes",
            status.reason,
            status.message.len()
        );
        Ok(())
    });
}

#[test]
fn e1_the_termination_message_is_found_through_the_mounts() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let file = node.dir().join("termination");
        fs::write(&file, "")?;
        let mut config = container(
            "main",
            BUSYBOX,
            &["sh", "-c", "echo the keel broke >/dev/termination-log; exit 3"],
        );
        config.mounts.push(v1::Mount {
            container_path: "/dev/termination-log".into(),
            host_path: file.to_string_lossy().into_owned(),
            ..Default::default()
        });
        let (status, _) = bed.run_to_end(&config).await?;
        let mount = status
            .mounts
            .iter()
            .find(|mount| mount.container_path == "/dev/termination-log")
            .context("not among the mounts")?;
        ensure!(
            fs::read_to_string(&mount.host_path)? == "the keel broke\n",
            "another text"
        );
        Ok(())
    });
}

#[test]
fn e1_an_exit_is_told_once_with_its_log_complete() {
    // The kubelet reads the log's end as soon as it sees EXITED (FallbackToLogsOnError).
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for round in 0..10 {
            let config = container(
                &format!("main{round}"),
                BUSYBOX,
                &["sh", "-c", "seq 1 2000; echo last words >&2; exit 1"],
            );
            let (_, lines) = bed.run_to_end(&config).await?;
            ensure!(logs::joined(&lines, "stderr") == "last words\n", "{:?}", lines.last());
            ensure!(
                logs::joined(&lines, "stdout").ends_with("\n2000\n"),
                "the log is cut short"
            );
        }
        Ok(())
    });
}
