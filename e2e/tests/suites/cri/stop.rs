//! E4: the stop signal, the grace, the kill.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, container, logs, test};
use proto::cri as v1;

/// Ignores SIGTERM; says when it is ready.
fn stubborn() -> v1::ContainerConfig {
    container(
        "main",
        BUSYBOX,
        &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"],
    )
}

#[test]
fn e4_stop_timeout_zero_kills_at_once() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.run(&stubborn()).await?;
        let begin = Instant::now();
        bed.cri.stop(&id, 0).await?;
        ensure!(
            begin.elapsed() < Duration::from_millis(1500),
            "took {:?}",
            begin.elapsed()
        );
        ensure!(
            bed.cri.container_status(&id).await?.exit_code == 137,
            "another exit code"
        );
        Ok(())
    });
}

#[test]
fn e4_after_the_grace_it_is_killed() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = stubborn();
        let id = bed.run(&config).await?;
        logs::wait_for(&logs::path(&bed.config, &config), "ready").await?;
        let begin = Instant::now();
        bed.cri.stop(&id, 1).await?;
        let took = begin.elapsed();
        ensure!(
            took >= Duration::from_millis(900) && took < Duration::from_secs(5),
            "took {took:?}"
        );
        ensure!(
            bed.cri.container_status(&id).await?.exit_code == 137,
            "another exit code"
        );
        Ok(())
    });
}

#[test]
fn e4_a_program_that_obeys_is_not_waited_for() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = container(
            "main",
            BUSYBOX,
            &[
                "sh",
                "-c",
                "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done",
            ],
        );
        let id = bed.run(&config).await?;
        logs::wait_for(&logs::path(&bed.config, &config), "ready").await?;
        let begin = Instant::now();
        bed.cri.stop(&id, 30).await?;
        ensure!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
        ensure!(bed.cri.container_status(&id).await?.exit_code == 5, "another exit code");
        let lines = logs::read(&logs::path(&bed.config, &config))?;
        ensure!(
            lines.iter().any(|line| line.content == "bye"),
            "its last words are not in the log: {lines:?}"
        );
        Ok(())
    });
}

#[test]
fn e4_a_stop_in_the_first_milliseconds_is_heard_once() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let one = async |i: u64| -> Result<()> {
            // Before the trap the kernel drops the signal.
            let line = "trap 'n=$((n + 1))' TERM; until [ -n \"$n\" ]; do sleep 0.01; done; sleep 0.03; exit $n";
            let id = bed
                .run(&container(&format!("c{i}"), BUSYBOX, &["sh", "-c", line]))
                .await?;
            tokio::time::sleep(Duration::from_micros(i % 10 * 100)).await;
            let begin = Instant::now();
            bed.cri.stop(&id, 30).await?;
            ensure!(
                begin.elapsed() < Duration::from_secs(15),
                "{i}: took {:?}",
                begin.elapsed()
            );
            let code = bed.cri.container_status(&id).await?.exit_code;
            ensure!(code == 1, "{i}: the signal came {code} times");
            Ok(bed.cri.remove(&id).await?)
        };
        // Several at once: what is between two steps takes longer then.
        for i in (0..80).step_by(4) {
            let _: ((), (), (), ()) = tokio::try_join!(one(i), one(i + 1), one(i + 2), one(i + 3))?;
        }
        Ok(())
    });
}

#[test]
fn e4_the_stop_signal_is_the_containers_then_the_images_then_term() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.pull("127.0.0.1:5000/busybox:user").await?;
        let line = "trap 'echo got USR1; exit 1' USR1; trap 'echo got USR2; exit 2' USR2; trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
        for (name, image, signal, code) in [
            ("own", "127.0.0.1:5000/busybox:user", v1::Signal::Sigusr2, 2),
            ("image", "127.0.0.1:5000/busybox:user", v1::Signal::RuntimeDefault, 1),
            ("none", BUSYBOX, v1::Signal::RuntimeDefault, 3),
        ] {
            let mut config = container(name, image, &["sh", "-c", line]);
            config.stop_signal = signal.into();
            let id = bed.run(&config).await?;
            logs::wait_for(&logs::path(&bed.config, &config), "ready").await?;
            bed.cri.stop(&id, 10).await?;
            let status = bed.cri.container_status(&id).await?;
            ensure!(status.exit_code == code, "{name}: exit code {}", status.exit_code);
            let told = match code {
                1 => v1::Signal::Sigusr1,
                2 => v1::Signal::Sigusr2,
                _ => v1::Signal::Sigterm,
            };
            ensure!(
                status.stop_signal() == told,
                "{name}: stop signal {:?}",
                status.stop_signal()
            );
        }
        Ok(())
    });
}

#[test]
fn e4_a_real_time_stop_signal_is_sent_and_told() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let line = "trap 'exit 5' 37; trap 'exit 6' 63; echo ready; while :; do sleep 0.05; done";
        for (name, signal, code) in [
            ("plus", v1::Signal::Sigrtminplus3, 5),
            ("minus", v1::Signal::Sigrtmaxminus1, 6),
        ] {
            let mut config = container(name, BUSYBOX, &["sh", "-c", line]);
            config.stop_signal = signal.into();
            let id = bed.run(&config).await?;
            logs::wait_for(&logs::path(&bed.config, &config), "ready").await?;
            bed.cri.stop(&id, 10).await?;
            let status = bed.cri.container_status(&id).await?;
            ensure!(
                status.exit_code == code && status.stop_signal() == signal,
                "{name}: {} {:?}",
                status.exit_code,
                status.stop_signal()
            );
        }
        Ok(())
    });
}

#[test]
fn e4_a_shorter_grace_shortens_a_stop_that_is_under_way() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = stubborn();
        let id = bed.run(&config).await?;
        logs::wait_for(&logs::path(&bed.config, &config), "ready").await?;
        let begin = Instant::now();
        let long = bed.cri.stop(&id, 60);
        let short = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            bed.cri.stop(&id, 1).await
        };
        let (long, short) = tokio::join!(long, short);
        long?;
        short?;
        ensure!(begin.elapsed() < Duration::from_secs(6), "took {:?}", begin.elapsed());
        Ok(())
    });
}

#[test]
fn e4_what_the_first_process_left_behind_dies_with_it() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| {
            e2e::config::pod_namespaces(config).pid = v1::NamespaceMode::Pod.into()
        })
        .await?;
        let mut config = container(
            "main",
            BUSYBOX,
            &[
                "sh",
                "-c",
                "setsid sh -c 'trap \"\" TERM HUP; exec sleep 98765' & echo ready; sleep 0.2",
            ],
        );
        e2e::config::security(&mut config).namespace_options = Some(v1::NamespaceOption {
            pid: v1::NamespaceMode::Pod.into(),
            ..Default::default()
        });
        let id = bed.run(&config).await?;
        bed.cri.exited(&id).await?;
        bed.cri.stop(&id, 0).await?;
        bed.cri.remove(&id).await?;
        let left: Vec<_> = e2e::leak::living(node.init())
            .into_iter()
            .filter(|process| process.command.contains("98765"))
            .collect();
        ensure!(left.is_empty(), "still alive: {left:?}");
        Ok(())
    });
}

#[test]
fn e4_exec_works_during_the_grace() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = stubborn();
        let id = bed.run(&config).await?;
        logs::wait_for(&logs::path(&bed.config, &config), "ready").await?;
        let exec = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            bed.exec(&id, &["echo", "still here"]).await
        };
        let (stop, output) = tokio::join!(bed.cri.stop(&id, 2), exec);
        stop?;
        ensure!(output?.stdout == "still here\n", "another output");
        Ok(())
    });
}

#[test]
fn e4_a_container_that_was_never_started_can_be_stopped_and_removed() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.create(&stubborn()).await?;
        bed.cri.stop(&id, 1).await?;
        bed.cri.remove(&id).await?;
        Ok(())
    });
}
