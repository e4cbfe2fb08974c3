//! Many sessions, much data, both ends of which read and write when they like.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::ws::{Client, Event};
use e2e::{Bed, Options, container, leak, logs, netns, places, test, test_within};
use proto::cri as v1;

use super::{V5, blocking, count, exec, used};

const LONG: Duration = Duration::from_secs(240);

#[test]
fn two_hundred_execs_at_once() {
    test_within(
        LONG,
        Options {
            quiet: true,
            ..Options::default()
        },
        async |node| -> Result<()> {
            let bed = Bed::new(node).await?;
            let id = bed.sleeper("main").await?;
            let (_, descriptors) = used(node)?;
            let mut sessions = Vec::new();
            for number in 0..200 {
                let line = format!(
                    "read word; echo {number} $word; echo err {number} >&2; exit {}",
                    number % 7
                );
                let url = exec(&bed, &id, &["sh", "-c", &line], true, false).await?;
                // All are open before the first is told to go on.
                sessions.push((number, Client::open(node, &url, V5)?));
            }
            e2e::wait::until("all two hundred run", Duration::from_secs(60), async || {
                Ok((count(node, "read word") >= 200).then_some(()))
            })
            .await?;
            for (number, session) in &mut sessions {
                session.send(0, format!("word{number}\n").as_bytes())?;
            }
            for (number, mut session) in sessions {
                let outcome = blocking(move || session.outcome()).await?;
                let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
                ensure!(text == format!("{number} word{number}\n"), "{number}: {text:?}");
                ensure!(
                    outcome.stderr == format!("err {number}\n").as_bytes(),
                    "{number}: {outcome:?}"
                );
                ensure!(
                    outcome.is_success() == (number % 7 == 0),
                    "{number}: {}",
                    outcome.status
                );
                ensure!(
                    number % 7 == 0 || outcome.status.contains(&format!("\"message\":\"{}\"", number % 7)),
                    "{number}: {}",
                    outcome.status
                );
            }
            e2e::wait::until("descriptors as before", Duration::from_secs(10), async || {
                Ok((used(node)?.1 <= descriptors + 5).then_some(()))
            })
            .await
        },
    );
}

#[test]
fn twenty_megabytes_of_stdin_wait_for_their_reader() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let input: Vec<u8> = (0..20_000_000_u32).map(|number| (number % 251) as u8).collect();
        let sum = e2e::image::digest(&input).replace("sha256:", "");
        let url = exec(&bed, &id, &["sh", "-c", "sleep 2; sha256sum"], true, false).await?;
        let mut reader = Client::open(node, &url, V5)?;
        let mut writer = reader.another()?;
        let (before, _) = used(node)?;
        let begin = Instant::now();
        let sent = tokio::task::spawn_blocking(move || -> Result<Duration> {
            for piece in input.chunks(30_000) {
                writer.send(0, piece)?;
            }
            writer.end(0)?;
            Ok(begin.elapsed())
        });
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let (during, _) = used(node)?;
        let output = blocking(move || reader.output()).await?;
        ensure!(output.starts_with(&sum), "another sum: {output}");
        // Had it all been taken at once, the writer would have been done long before the reader began.
        let took = sent.await??;
        ensure!(took > Duration::from_millis(1800), "20 MB were sent in {took:?}");
        ensure!(
            during < before + 8_000,
            "{before} kB before, {during} kB while nobody read"
        );
        Ok(())
    });
}

#[test]
fn each_side_may_end_before_the_other() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        // The client ends its side; the process still speaks.
        let url = exec(
            &bed,
            &id,
            &["sh", "-c", "cat; sleep 0.5; echo after the end; exit 3"],
            true,
            false,
        )
        .await?;
        let mut client = Client::open(node, &url, V5)?;
        client.send(0, b"before\n")?;
        client.end(0)?;
        let outcome = blocking(move || client.outcome()).await?;
        ensure!(outcome.stdout == b"before\nafter the end\n", "{outcome:?}");
        ensure!(outcome.status.contains("\"message\":\"3\""), "{}", outcome.status);
        // The process ends its outputs; it still listens.
        let line = "exec >/dev/null 2>/dev/null; read word; [ \"$word\" = go ] && exit 4";
        let url = exec(&bed, &id, &["sh", "-c", line], true, false).await?;
        let mut client = Client::open(node, &url, V5)?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.send(0, b"go\n")?;
        let outcome = blocking(move || client.outcome()).await?;
        ensure!(outcome.status.contains("\"message\":\"4\""), "{}", outcome.status);
        // The process closes its input; what the client still sends is nobody's.
        let url = exec(
            &bed,
            &id,
            &["sh", "-c", "exec <&-; sleep 0.5; echo done; exit 0"],
            true,
            false,
        )
        .await?;
        let mut client = Client::open(node, &url, V5)?;
        for _ in 0..20 {
            client.send(0, &[b'x'; 20_000])?;
        }
        let outcome = blocking(move || client.outcome()).await?;
        ensure!(outcome.stdout == b"done\n" && outcome.is_success(), "{outcome:?}");
        Ok(())
    });
}

#[test]
fn a_storm_of_sizes_ends_with_the_last() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let line = "read go; stty size; exit 0";
        let url = exec(&bed, &id, &["sh", "-c", line], true, true).await?;
        let mut client = Client::open(node, &url, V5)?;
        for number in 1..=5000_u32 {
            let (width, height) = (20 + number % 200, 10 + number % 90);
            client.send(4, format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes())?;
        }
        client.send(4, b"{\"Width\":133,\"Height\":44}")?;
        // In the order of the wire: the last size before the word.
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.send(0, b"go\n")?;
        let output = blocking(move || client.output()).await?;
        ensure!(output.contains("44 133"), "{output:?}");
        Ok(())
    });
}

#[test]
fn a_reader_that_stalls_stalls_itself_alone() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let mut stalled = Vec::new();
        for _ in 0..10 {
            let url = exec(&bed, &id, &["cat", "/dev/zero"], false, false).await?;
            stalled.push(Client::open(node, &url, V5)?);
        }
        tokio::time::sleep(Duration::from_millis(800)).await;
        let (before, _) = used(node)?;
        for _ in 0..20 {
            let begin = Instant::now();
            let url = exec(&bed, &id, &["echo", "quick"], false, false).await?;
            let mut client = Client::open(node, &url, V5)?;
            ensure!(blocking(move || client.output()).await? == "quick\n", "another output");
            ensure!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
            ensure!(bed.exec(&id, &["true"]).await?.code == 0, "ExecSync failed");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (after, _) = used(node)?;
        ensure!(after < before + 8_000, "{before} kB, then {after} kB");
        drop(stalled);
        e2e::wait::until("their processes end", Duration::from_secs(10), async || {
            Ok((count(node, "/dev/zero") == 0).then_some(()))
        })
        .await
    });
}

#[test]
fn an_attached_client_that_stalls_does_not_hold_up_the_log() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = container("main", BUSYBOX, &["sh", "-c", "sleep 1; seq 1 400000; echo the end"]);
        let id = bed.run(&config).await?;
        let request = v1::AttachRequest {
            container_id: id.clone(),
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        let url = bed.cri.runtime.clone().attach(request).await?.into_inner().url;
        let stalled = Client::open(node, &url, V5)?;
        bed.cri.exited(&id).await?;
        drop(stalled);
        let lines = logs::read(&logs::path(&bed.config, &config))?;
        ensure!(lines.len() == 400_001, "{} lines", lines.len());
        Ok(())
    });
}

#[test]
fn a_thousand_connections_through_port_forwards() {
    test_within(
        LONG,
        Options {
            quiet: true,
            ..Options::default()
        },
        async |node| -> Result<()> {
            let bed = Bed::new(node).await?;
            let web = container("web", BUSYBOX, &["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/srv"]);
            let id = bed.run(&web).await?;
            bed.cri
                .sh(
                    &id,
                    "until wget -q -O /dev/null http://127.0.0.1:8080/; do sleep 0.1; done",
                )
                .await?;
            let (_, descriptors) = used(node)?;
            let init = node.init();
            for protocol in ["spdy", "ws"] {
                let request = v1::PortForwardRequest {
                    pod_sandbox_id: bed.pod.clone(),
                    port: vec![8080],
                };
                let url = bed.cri.runtime.clone().port_forward(request).await?.into_inner().url;
                let mut command = node.enter(places::tool("streamclient")?);
                command.args([
                    "portforward",
                    "--url",
                    &url,
                    "--protocol",
                    protocol,
                    "--ports",
                    "0:8080",
                ]);
                let mut child = command
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()?;
                let mut line = String::new();
                BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut line)?;
                let port: u16 = line
                    .strip_prefix("ready ")
                    .and_then(|rest| rest.split(':').next())
                    .and_then(|port| port.parse().ok())
                    .with_context(|| format!("{protocol}: {line:?}"))?;
                // Ten callers, fifty connections each, five of them open at a time.
                let callers: Vec<_> = (0..10)
                    .map(|_| {
                        blocking(move || {
                            for _ in 0..10 {
                                let mut open = Vec::new();
                                for _ in 0..5 {
                                    let stream = netns::connect(init, ([127, 0, 0, 1], port).into())?;
                                    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                                    open.push(stream);
                                }
                                for mut stream in open {
                                    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
                                    let mut text = String::new();
                                    stream.read_to_string(&mut text)?;
                                    ensure!(text.ends_with("served by the pod\n"), "{text:?}");
                                }
                            }
                            Ok(())
                        })
                    })
                    .collect();
                let mut failed = Vec::new();
                let mut set = tokio::task::JoinSet::new();
                for caller in callers {
                    set.spawn(caller);
                }
                while let Some(done) = set.join_next().await {
                    failed.extend(done?.err().map(|error| format!("{error:#}")));
                }
                child.kill()?;
                child.wait()?;
                ensure!(failed.is_empty(), "{protocol}: {failed:?}");
            }
            e2e::wait::until("descriptors as before", Duration::from_secs(10), async || {
                Ok((used(node)?.1 <= descriptors + 5).then_some(()))
            })
            .await
        },
    );
}

#[test]
fn a_session_in_which_nothing_moves_is_ended_and_another_is_not() {
    let options = Options {
        config: "stream:\n  idle_timeout_seconds: 2\n".into(),
        ..Options::default()
    };
    e2e::test_with(options, async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let url = exec(&bed, &id, &["sleep", "45678"], true, false).await?;
        let mut idle = Client::open(node, &url, V5)?;
        let line = "i=0; while [ $i -lt 12 ]; do i=$((i+1)); echo $i; sleep 0.5; done";
        let url = exec(&bed, &id, &["sh", "-c", line], false, false).await?;
        let mut busy = Client::open(node, &url, V5)?;
        let begin = Instant::now();
        let ended = blocking(move || {
            loop {
                if let Event::Close(_) = idle.event()? {
                    return Ok(begin.elapsed());
                }
            }
        })
        .await?;
        ensure!(
            ended > Duration::from_millis(1500) && ended < Duration::from_secs(8),
            "ended after {ended:?}"
        );
        let output = blocking(move || busy.output()).await?;
        ensure!(output.ends_with("12\n"), "the busy one was cut: {output:?}");
        e2e::wait::until("the idle command is gone", Duration::from_secs(10), async || {
            Ok((count(node, "45678") == 0).then_some(()))
        })
        .await
    });
}

#[test]
fn a_monitor_does_not_grow_with_its_execs() {
    test_within(
        LONG,
        Options {
            quiet: true,
            ..Options::default()
        },
        async |node| -> Result<()> {
            let bed = Bed::new(node).await?;
            let id = bed.sleeper("main").await?;
            let held = || -> Result<u64> {
                let monitor = leak::living(node.init())
                    .into_iter()
                    .find(|process| process.comm.starts_with("conmon:"))
                    .context("no monitor")?;
                let path = node.inside(Path::new(&format!("/proc/{}/smaps_rollup", monitor.pid)));
                let text = std::fs::read_to_string(path)?;
                let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
                let value = line.context("no Private_Dirty")?.trim().trim_end_matches(" kB");
                Ok(value.parse()?)
            };
            let mut seen = Vec::new();
            for round in 0..=10 {
                for _ in 0..if round == 0 { 100 } else { 200 } {
                    let output = bed.cri.exec_with(&id, &["true"], 10).await?;
                    ensure!(output.code == 0, "exec ended with {}", output.code);
                }
                seen.push(held()?);
            }
            ensure!(
                seen.iter().max().unwrap_or(&0) - seen[0] < 64,
                "private memory of the monitor in kB after each two hundred execs: {seen:?}"
            );
            println!("{seen:?}");
            Ok(())
        },
    );
}
