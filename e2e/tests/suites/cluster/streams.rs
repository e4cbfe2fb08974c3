//! kubectl logs, exec, attach, port-forward, cp and debug, over WebSocket and over SPDY.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kube::Cluster;
use e2e::kube::cluster::test;
use e2e::kube::pods::{STAY, agnhost, is_ready, pod, shell};
use e2e::netns;
use serde_json::json;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn kubectl(cluster: &Cluster, websockets: bool, arguments: &[&str]) -> Result<Command> {
    let mut command = cluster.kubectl_command(arguments)?;
    for variable in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"] {
        command.env(variable, websockets.to_string());
    }
    Ok(command)
}

fn run(mut command: Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let input = input.to_vec();
    // A client that has ended already has closed it.
    let writer = std::thread::spawn(move || stdin.write_all(&input).ok());
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    Ok(output)
}

#[test]
#[expect(clippy::too_many_lines, reason = "one thing after another that kubectl can do")]
fn kubectl_reaches_into_pods_over_both_protocols() {
    test(async |cluster| -> Result<()> {
        let containers = [
            shell(
                "main",
                &format!("echo one; echo two >&2; sleep 2; echo later; {STAY}"),
                json!({}),
            ),
            shell("cat", "exec cat", json!({"stdin": true})),
            agnhost(
                "web",
                &["netexec", "--http-port=8080", "--udp-port=-1"],
                json!({"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}),
            ),
        ];
        cluster.apply(&[pod("reached", &containers, json!({}))])?;
        cluster.until("reached", "ready", 60, is_ready).await?;
        let follow = first_lines(
            cluster.kubectl_command(&["logs", "-f", "reached", "-c", "main"])?,
            "later",
        )?;
        ensure!(
            follow.contains("one\n") && follow.contains("two\n") && follow.contains("later\n"),
            "{follow}"
        );
        for websockets in [true, false] {
            let with = |arguments: &[&str]| kubectl(cluster, websockets, arguments);
            let output = run(
                with(&[
                    "exec",
                    "reached",
                    "-c",
                    "main",
                    "--",
                    "sh",
                    "-c",
                    "echo out; echo err >&2; exit 7",
                ])?,
                b"",
            )?;
            ensure!(
                output.status.code() == Some(7)
                    && text(&output.stdout) == "out\n"
                    && text(&output.stderr).contains("err\n"),
                "{output:?}"
            );
            let output = run(
                with(&["exec", "-i", "reached", "-c", "main", "--", "wc", "-c"])?,
                &vec![b'x'; 1 << 20],
            )?;
            ensure!(text(&output.stdout).trim() == "1048576", "{output:?}");
            let attached = attach(with(&["attach", "-i", "reached", "-c", "cat", "-q"])?, "hello\n")?;
            ensure!(attached.contains("hello"), "{attached}");
            forward(
                with(&["port-forward", "pod/reached", ":8080"])?,
                cluster.kubelet.node.init(),
            )?;
            let file = cluster.kubelet.dir().join("copied");
            std::fs::write(&file, "there and back\n")?;
            let there = run(
                with(&["cp", &file.display().to_string(), "reached:/tmp/copied", "-c", "main"])?,
                b"",
            )?;
            ensure!(there.status.success(), "{there:?}");
            std::fs::remove_file(&file)?;
            let back = run(
                with(&["cp", "reached:/tmp/copied", &file.display().to_string(), "-c", "main"])?,
                b"",
            )?;
            ensure!(
                back.status.success() && std::fs::read_to_string(&file)? == "there and back\n",
                "{back:?}"
            );
            let name = format!("debug-{websockets}");
            let script = "ps -o args | grep -c '[e]xec\\|[s]leep 100000'; grep -c . /proc/1/cmdline";
            let debug = [
                "debug",
                "reached",
                "--image",
                e2e::catalog::BUSYBOX,
                "--target",
                "main",
                "-c",
                &name,
                "--attach",
                "--",
                "sh",
                "-c",
                script,
            ];
            let output = run(with(&debug)?, b"")?;
            // It may have ended before the client was attached: then its log has it.
            let log = cluster
                .eventually("the debugger's log", 30, || {
                    Ok(cluster
                        .kubectl(&["logs", "reached", "-c", &name])
                        .ok()
                        .filter(|log| log.lines().count() >= 2))
                })
                .await
                .with_context(|| format!("{output:?}"))?;
            ensure!(
                log.lines().next() != Some("0"),
                "the target's processes are not seen: {log}"
            );
        }
        Ok(())
    });
}

/// Reads lines until one holds `until`; then ends the client.
fn first_lines(mut command: Command, until: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut reader = BufReader::new(child.stdout.take().context("no stdout")?);
    let mut all = String::new();
    while !all.contains(until) {
        ensure!(reader.read_line(&mut all)? > 0, "the client ended: {all}");
    }
    child.kill()?;
    child.wait()?;
    Ok(all)
}

/// Writes a line and reads one back; kubectl ends with its stdin, so that is held open.
fn attach(mut command: Command, line: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut answer)?;
    child.kill()?;
    child.wait()?;
    Ok(answer)
}

fn forward(mut command: Command, init: u32) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut said = String::new();
    // Held open to the end: kubectl says each connection there, and dies where nobody can hear it.
    let mut reader = BufReader::new(child.stdout.take().context("no stdout")?);
    reader.read_line(&mut said)?;
    let asked = (|| -> Result<String> {
        let port: u16 = said
            .strip_prefix("Forwarding from 127.0.0.1:")
            .and_then(|rest| rest.split(' ').next()?.parse().ok())
            .with_context(|| format!("kubectl said {said:?}"))?;
        let mut stream = netns::connect(init, std::net::SocketAddr::from(([127, 0, 0, 1], port)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /echo?msg=hello HTTP/1.0\r\n\r\n")?;
        // kubectl may end its side with a reset, when all has come: what has come is what counts.
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            answer.extend_from_slice(&chunk[..count]);
        }
        Ok(text(&answer))
    })();
    child.kill()?;
    child.wait()?;
    drop(reader);
    let answer = asked?;
    ensure!(answer.ends_with("hello"), "{answer}");
    Ok(())
}
