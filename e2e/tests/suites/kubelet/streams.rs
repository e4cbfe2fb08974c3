//! Logs, exec, attach and port-forward through the kubelet's HTTPS interface, with client-go's clients.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::kube::kubelet::{NAME, test};
use e2e::kube::pods::{STAY, agnhost, pod, shell};
use e2e::netns;
use serde_json::json;

/// Runs a client with an input, held open for a while.
fn run(mut command: Command, input: &[u8], hold: Duration) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A client that has ended already has closed it.
        stdin.write_all(&input).ok();
        std::thread::sleep(hold);
    });
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    Ok(output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn logs_exec_attach_and_port_forward_work_over_both_protocols() {
    test(async |kubelet| -> Result<()> {
        let containers = [
            shell("main", &format!("echo one; echo two >&2; {STAY}"), json!({})),
            shell("cat", "exec cat", json!({"stdin": true})),
            agnhost(
                "web",
                &["netexec", "--http-port=8080", "--udp-port=-1"],
                json!({"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}),
            ),
        ];
        kubelet.apply(&pod("streams", &containers, json!({})))?;
        kubelet.ready("streams").await?;
        kubelet
            .logged("streams", "main", |log| {
                log.contains(
                    "one
",
                ) && log.contains(
                    "two
",
                )
            })
            .await?;
        let log = kubelet.get_https(&format!(
            "/containerLogs/default/streams-{NAME}/main?tailLines=1&timestamps=true"
        ))?;
        ensure!(log.lines().count() == 1 && log.contains('T'), "{log}");
        let exec = |protocol: &str, script: &str, more: &[&str]| -> Result<Command> {
            let stdin = if more.contains(&"--stdin") { "&input=1" } else { "" };
            let tty = if more.contains(&"--tty") { "&tty=1" } else { "&error=1" };
            let script = script
                .replace(' ', "%20")
                .replace(';', "%3B")
                .replace('>', "%3E")
                .replace('&', "%26");
            let path = format!(
                "/exec/default/streams-{NAME}/main?command=/bin/sh&command=-c&command={script}&output=1{stdin}{tty}"
            );
            let mut command = kubelet.client("exec", &path, Some(protocol))?;
            command.args(more);
            Ok(command)
        };
        for protocol in ["spdy", "ws"] {
            let output = run(
                exec(protocol, "echo out; echo err >&2; exit 7", &[])?,
                b"",
                Duration::ZERO,
            )?;
            ensure!(output.status.code() == Some(7), "{protocol}: {output:?}");
            ensure!(
                text(&output.stdout) == "out\n" && text(&output.stderr).contains("err\n"),
                "{protocol}: {output:?}"
            );
            let large = vec![b'x'; 1 << 20];
            let output = run(exec(protocol, "wc -c", &["--stdin"])?, &large, Duration::ZERO)?;
            ensure!(text(&output.stdout).trim() == "1048576", "{protocol}: {output:?}");
            let output = run(
                exec(
                    protocol,
                    "sleep 1; stty size",
                    &["--stdin", "--tty", "--sizes", "100x40"],
                )?,
                b"",
                Duration::from_secs(3),
            )?;
            ensure!(text(&output.stdout).contains("40 100"), "{protocol}: {output:?}");
            let path = format!("/attach/default/streams-{NAME}/cat?input=1&output=1");
            let mut attach = kubelet.client("attach", &path, Some(protocol))?;
            attach.args(["--stdin", "--stderr=false"]);
            let output = attached(attach, &format!("attached by {protocol}\n"))?;
            ensure!(
                output.contains(&format!("attached by {protocol}")),
                "{protocol}: {output:?}"
            );
            forward(
                kubelet.client(
                    "portforward",
                    &format!("/portForward/default/streams-{NAME}"),
                    Some(protocol),
                )?,
                kubelet.node.init(),
            )
            .with_context(|| protocol.to_owned())?;
        }
        Ok(())
    });
}

/// Writes a line to an attached container and answers the first line that comes back; then the client is ended, since the
/// container goes on.
fn attached(mut command: Command, line: &str) -> Result<String> {
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
    command.args(["--ports", "0:8080"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut ready = String::new();
    BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut ready)?;
    let port: u16 = ready
        .trim()
        .strip_prefix("ready ")
        .and_then(|pair| pair.split(':').next()?.parse().ok())
        .with_context(|| format!("the client said {ready:?}"))?;
    let asked = (|| -> Result<String> {
        let mut stream = netns::connect(init, std::net::SocketAddr::from(([127, 0, 0, 1], port)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /echo?msg=hello HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })();
    drop(child.stdin.take());
    child.kill()?;
    child.wait()?;
    let answer = asked?;
    ensure!(answer.ends_with("hello"), "{answer}");
    Ok(())
}
