//! E5: the log format, fragments, rotation.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, container, logs, test};

#[test]
fn e5_streams_empty_lines_and_the_unfinished_last_line() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let (_, lines) = bed
            .run_to_end(&container(
                "main",
                BUSYBOX,
                &["sh", "-c", "echo one; echo; echo two >&2; printf unfinished"],
            ))
            .await?;
        let out: Vec<_> = lines
            .iter()
            .filter(|line| line.stream == "stdout")
            .map(|line| (line.content.as_str(), line.full))
            .collect();
        ensure!(out == [("one", true), ("", true), ("unfinished", false)], "{out:?}");
        ensure!(logs::joined(&lines, "stderr") == "two\n", "{lines:?}");
        Ok(())
    });
}

#[test]
fn e5_times_have_nanoseconds_and_do_not_go_back() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let (_, lines) = bed
            .run_to_end(&container("main", BUSYBOX, &["sh", "-c", "seq 1 200"]))
            .await?;
        ensure!(lines.len() == 200, "{} lines", lines.len());
        ensure!(
            lines.iter().all(|line| line.time.len() > 25 && line.time.contains('.')),
            "{:?}",
            lines[0]
        );
        ensure!(
            lines
                .windows(2)
                .all(|pair| pair[0].time <= pair[1].time || pair[0].time.len() != pair[1].time.len()),
            "a time went back"
        );
        Ok(())
    });
}

#[test]
fn e5_a_long_line_is_cut_into_fragments_that_join() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let line = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo short";
        let (_, lines) = bed.run_to_end(&container("main", BUSYBOX, &["sh", "-c", line])).await?;
        ensure!(lines.len() > 2 && !lines[0].full, "{} lines", lines.len());
        ensure!(
            logs::joined(&lines, "stdout") == format!("{}\nshort\n", "x".repeat(100_000)),
            "the fragments do not join"
        );
        Ok(())
    });
}

#[test]
fn e5_bytes_that_are_not_text_are_kept() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = container("main", BUSYBOX, &["sh", "-c", "printf 'a\\377\\000b\\r\\n'"]);
        let id = bed.run(&config).await?;
        bed.cri.exited(&id).await?;
        let bytes = fs::read(logs::path(&bed.config, &config))?;
        // containerd drops the carriage return.
        let expected: &[u8] = if node.ours() {
            b" stdout F a\xff\0b\r\n"
        } else {
            b" stdout F a\xff\0b\n"
        };
        ensure!(bytes.ends_with(expected), "{:?}", String::from_utf8_lossy(&bytes));
        Ok(())
    });
}

#[test]
fn e5_the_file_is_made_by_the_runtime_not_for_everyone_and_stays() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = e2e::sleeper("main");
        let id = bed.run(&config).await?;
        let path = logs::path(&bed.config, &config);
        let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
        ensure!(mode & 0o007 == 0 && mode & 0o600 == 0o600, "mode {mode:o}");
        ensure!(
            bed.cri.container_status(&id).await?.log_path == path.to_string_lossy(),
            "another path"
        );
        bed.cri.remove(&id).await?;
        ensure!(path.exists(), "the log was removed");
        Ok(())
    });
}

#[test]
fn e5_without_a_log_path_output_is_discarded() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "seq 1 100000; exit 4"]);
        config.log_path = String::new();
        let id = bed.run(&config).await?;
        ensure!(bed.cri.exited(&id).await?.exit_code == 4, "another exit code");
        Ok(())
    });
}

#[test]
fn e5_rotation_loses_no_line_and_doubles_none() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            // containerd doubles fragments of the line that is being read.
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let count = 60_000;
        let config = container(
            "main",
            BUSYBOX,
            &[
                "sh",
                "-c",
                &format!("sleep 0.2; seq 1 {count}; echo end >&2; sleep 100000"),
            ],
        );
        let id = bed.run(&config).await?;
        let path = logs::path(&bed.config, &config);
        let mut rotated = Vec::new();
        for number in 0..20 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            let old = path.with_extension(format!("log.{number}"));
            fs::rename(&path, &old)?;
            bed.cri.reopen_log(&id).await?;
            ensure!(
                path.exists(),
                "the new file is not there when ReopenContainerLog answers"
            );
            rotated.push(old);
        }
        logs::wait_for(&path, "stderr F end").await.or_else(|error| {
            // The end may have come before the last rotation.
            let there = rotated
                .iter()
                .any(|file| fs::read_to_string(file).is_ok_and(|text| text.contains("stderr F end")));
            if there { Ok(Vec::new()) } else { Err(error) }
        })?;
        rotated.push(path);
        let mut seen = Vec::new();
        for file in &rotated {
            seen.extend(
                logs::read(file)?
                    .into_iter()
                    .filter(|line| line.stream == "stdout")
                    .map(|line| line.content),
            );
        }
        let expected: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
        let first = seen.iter().zip(&expected).position(|(a, b)| a != b);
        ensure!(seen == expected, "{} lines, first difference at {first:?}", seen.len());
        Ok(())
    });
}

#[test]
fn e5_reopen_needs_a_running_container() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.run(&container("main", BUSYBOX, &["true"])).await?;
        bed.cri.exited(&id).await?;
        ensure!(bed.cri.reopen_log(&id).await.is_err(), "it was accepted");
        Ok(())
    });
}

#[test]
fn e5_the_log_goes_on_while_the_server_is_away() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            // containerd itself writes the logs.
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        let config = container(
            "main",
            BUSYBOX,
            &["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"],
        );
        let id = bed.run(&config).await?;
        node.kill_daemon()?;
        tokio::time::sleep(Duration::from_millis(400)).await;
        let path = logs::path(&bed.config, &config);
        let before = logs::read(&path)?.len();
        e2e::wait::until("the log goes on", Duration::from_secs(20), async || {
            Ok((logs::read(&path)?.len() > before + 5).then_some(()))
        })
        .await?;
        node.start_daemon().await?;
        let cri = node.cri();
        fs::rename(&path, path.with_extension("old"))?;
        cri.reopen_log(&id).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        cri.stop(&id, 0).await?;
        let mut all = logs::read(&path.with_extension("old"))?;
        all.extend(logs::read(&path)?);
        for (at, line) in all.iter().enumerate() {
            ensure!(line.content == (at + 1).to_string(), "line {at} says {}", line.content);
        }
        Ok(())
    });
}
