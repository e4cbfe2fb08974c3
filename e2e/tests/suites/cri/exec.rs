//! ExecSync.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::bed::refused_any;
use e2e::{Bed, test};
use proto::cri as v1;
use tonic::Code;

#[test]
fn e4_execsync_tells_both_streams_and_the_code() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let output = bed.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 7"]).await?;
        ensure!(
            output.stdout == "out\n" && output.stderr == "err\n" && output.code == 7,
            "{output:?}"
        );
        Ok(())
    });
}

#[test]
fn e4_execsync_keeps_bytes_as_they_are() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let request = v1::ExecSyncRequest {
            container_id: id,
            cmd: ["sh", "-c", "printf '\\000\\377\\n\\r'"].map(str::to_owned).into(),
            timeout: 10,
        };
        let answer = bed.cri.runtime.clone().exec_sync(request).await?.into_inner();
        ensure!(answer.stdout[..] == [0, 255, b'\n', b'\r'], "{:?}", answer.stdout);
        Ok(())
    });
}

#[test]
fn e4_execsync_discards_what_is_above_16_mib() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            // containerd's answer is larger than its own limit for a message.
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let output = bed
            .exec(&id, &["sh", "-c", "head -c 20000000 /dev/zero; echo done >&2"])
            .await?;
        ensure!(
            output.code == 0 && output.stderr == "done\n",
            "{} {}",
            output.code,
            output.stderr
        );
        // A little below, where the answer would else not fit into the kubelet's 16 MiB for a message.
        ensure!(
            (15 << 20..=16 << 20).contains(&output.stdout.len()),
            "{} bytes",
            output.stdout.len()
        );
        Ok(())
    });
}

#[test]
fn e4_execsync_timeout_kills_and_says_deadline() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let begin = Instant::now();
        let codes: &[Code] = if node.ours() {
            &[Code::DeadlineExceeded]
        } else {
            &[Code::DeadlineExceeded, Code::Unknown]
        };
        refused_any(bed.cri.exec_with(&id, &["sleep", "45678"], 1).await, codes, &[])?;
        ensure!(begin.elapsed() < Duration::from_secs(8), "took {:?}", begin.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let left: Vec<_> = e2e::leak::living(node.init())
            .into_iter()
            .filter(|process| process.command.contains("45678"))
            .collect();
        ensure!(left.is_empty(), "still alive: {left:?}");
        ensure!(bed.cri.sh(&id, "echo fine").await? == "fine\n", "the container is hurt");
        Ok(())
    });
}

#[test]
fn e4_execsync_does_not_wait_for_a_grandchild_that_holds_the_pipe() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            // containerd waits for ever, unless its drain timeout is configured.
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let begin = Instant::now();
        let output = bed
            .cri
            .exec_with(&id, &["sh", "-c", "sleep 56789 & echo out"], 30)
            .await?;
        ensure!(begin.elapsed() < Duration::from_secs(25), "took {:?}", begin.elapsed());
        ensure!(output.stdout == "out\n", "{output:?}");
        Ok(())
    });
}

#[test]
fn e4_execsync_of_a_missing_program_is_an_error_that_names_it() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        match bed.exec(&id, &["/no/such/tool"]).await {
            Ok(output) => ensure!(output.code == 127 || output.code == 126, "{output:?}"),
            Err(status) => ensure!(status.message().contains("/no/such/tool"), "{status:?}"),
        }
        Ok(())
    });
}

#[test]
fn e4_execsync_needs_a_running_container() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.create(&e2e::sleeper("main")).await?;
        let codes: &[Code] = if node.ours() {
            &[Code::FailedPrecondition]
        } else {
            &[Code::Unknown, Code::FailedPrecondition]
        };
        refused_any(bed.exec(&id, &["true"]).await, codes, &[])?;
        bed.cri.start(&id).await?;
        bed.cri.stop(&id, 5).await?;
        refused_any(bed.exec(&id, &["true"]).await, codes, &[])
    });
}

#[test]
fn e4_many_execs_at_once() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..40 {
            let (cri, id) = (bed.cri.clone(), id.clone());
            tasks.spawn(async move { (number, cri.exec_with(&id, &["echo", &number.to_string()], 30).await) });
        }
        while let Some(done) = tasks.join_next().await {
            let (number, output) = done?;
            ensure!(output?.stdout == format!("{number}\n"), "exec {number}");
        }
        Ok(())
    });
}

#[test]
fn e4_exec_has_the_containers_user_directory_and_environment() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.pull("127.0.0.1:5000/busybox:user").await?;
        let mut config = e2e::container("main", "127.0.0.1:5000/busybox:user", &[]);
        config.envs.push(v1::KeyValue {
            key: "FROM_CRI".into(),
            value: "yes".into(),
        });
        let id = bed.run(&config).await?;
        let output = bed
            .cri
            .sh(&id, "id -u; id -g; id -G; pwd; echo $FROM_IMAGE $FROM_CRI $HOME")
            .await?;
        ensure!(
            output == "1000\n1000\n1000 2000\n/home/app\nyes yes /home/app\n",
            "{output}"
        );
        Ok(())
    });
}
