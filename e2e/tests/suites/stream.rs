//! Exec, Attach and PortForward with the clients of kubectl and the kubelet
//! (`hack/tools/streamclient`), over SPDY and over WebSocket.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, Node, container, logs, netns, places, test};
use proto::cri as v1;

/// containerd refuses the WebSocket of a client that is not an API server.
fn protocols(node: &Node) -> &'static [&'static str] {
    if node.ours() { &["spdy", "ws"] } else { &["spdy"] }
}

const HOLD: Duration = Duration::from_millis(1500);

fn client(node: &Node, verb: &str, url: &str, protocol: &str) -> Result<Command> {
    let mut command = node.enter(places::tool("streamclient")?);
    command.args([verb, "--url", url, "--protocol", protocol]);
    for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        command.env_remove(variable);
    }
    Ok(command)
}

async fn exec_url(bed: &Bed, id: &str, cmd: &[&str], stdin: bool, tty: bool) -> Result<String> {
    let request = v1::ExecRequest {
        container_id: id.into(),
        cmd: cmd.iter().map(|&word| word.into()).collect(),
        tty,
        stdin,
        stdout: true,
        stderr: !tty,
    };
    Ok(bed.cri.runtime.clone().exec(request).await?.into_inner().url)
}

async fn attach_url(bed: &Bed, id: &str, stdin: bool, tty: bool) -> Result<String> {
    let request = v1::AttachRequest {
        container_id: id.into(),
        stdin,
        tty,
        stdout: true,
        stderr: !tty,
    };
    Ok(bed.cri.runtime.clone().attach(request).await?.into_inner().url)
}

/// Runs the client with an input; its exit code, output, errors.
async fn run(command: Command, input: &[u8]) -> Result<(Option<i32>, String, String)> {
    run_and_hold(command, input, Duration::ZERO).await
}

/// As [`run`], its stdin held open for a while after the input: some clients end with it.
async fn run_and_hold(mut command: Command, input: &[u8], hold: Duration) -> Result<(Option<i32>, String, String)> {
    let input = input.to_vec();
    let done = tokio::task::spawn_blocking(move || -> Result<std::process::Output> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        // A client that ended early has closed it.
        let writer = std::thread::spawn(move || {
            stdin.write_all(&input).ok();
            std::thread::sleep(hold);
        });
        let output = child.wait_with_output()?;
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        Ok(output)
    });
    let output = tokio::time::timeout(Duration::from_secs(30), done)
        .await
        .context("the client hangs")???;
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into(),
        String::from_utf8_lossy(&output.stderr).into(),
    ))
}

#[test]
fn exec_tells_streams_and_code() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        for &protocol in protocols(node) {
            let url = exec_url(&bed, &id, &["sh", "-c", "echo out; echo err >&2; exit 7"], false, false).await?;
            let (code, out, err) = run(client(node, "exec", &url, protocol)?, b"").await?;
            ensure!(
                code == Some(7) && out == "out\n" && err == "err\n",
                "{protocol}: {code:?} {out:?} {err:?}"
            );
            let url = exec_url(&bed, &id, &["true"], false, false).await?;
            let (code, ..) = run(client(node, "exec", &url, protocol)?, b"").await?;
            ensure!(code == Some(0), "{protocol}: {code:?}");
        }
        Ok(())
    });
}

#[test]
fn exec_carries_stdin_to_its_end() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let input: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        let sum = e2e::image::digest(&input).replace("sha256:", "");
        for &protocol in protocols(node) {
            let url = exec_url(&bed, &id, &["sha256sum"], true, false).await?;
            let mut command = client(node, "exec", &url, protocol)?;
            command.arg("--stdin");
            let (code, out, err) = run(command, &input).await?;
            ensure!(
                code == Some(0) && out.starts_with(&sum),
                "{protocol}: {code:?} {out} {err}"
            );
        }
        Ok(())
    });
}

#[test]
fn exec_of_much_output_is_whole() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        for &protocol in protocols(node) {
            let url = exec_url(&bed, &id, &["seq", "1", "400000"], false, false).await?;
            let (code, out, err) = run(client(node, "exec", &url, protocol)?, b"").await?;
            ensure!(
                code == Some(0) && out.lines().count() == 400_000 && out.ends_with("\n400000\n"),
                "{protocol}: {code:?} {} bytes {err}",
                out.len()
            );
        }
        Ok(())
    });
}

#[test]
fn e4_a_terminal_has_its_size() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        for &protocol in protocols(node) {
            let url = exec_url(
                &bed,
                &id,
                &["sh", "-c", "tty; sleep 0.5; stty size; echo $TERM"],
                true,
                true,
            )
            .await?;
            let mut command = client(node, "exec", &url, protocol)?;
            command.args(["--tty", "--stdin", "--sizes", "80x24,133x44"]);
            let (code, out, err) = run_and_hold(command, b"", HOLD).await?;
            ensure!(
                code == Some(0) && out.contains("/dev/pts/") && out.contains("44 133") && out.contains("xterm"),
                "{protocol}: {code:?} {out:?} {err}"
            );
        }
        Ok(())
    });
}

#[test]
fn exec_of_a_missing_program_fails_with_its_name() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        for &protocol in protocols(node) {
            let url = exec_url(&bed, &id, &["/no/such/tool"], false, false).await?;
            let (code, _, err) = run(client(node, "exec", &url, protocol)?, b"").await?;
            ensure!(
                code != Some(0) && err.contains("/no/such/tool"),
                "{protocol}: {code:?} {err}"
            );
        }
        Ok(())
    });
}

#[test]
fn attach_sees_output_and_gives_input() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for &protocol in protocols(node) {
            let mut config = container(
                protocol,
                BUSYBOX,
                &[
                    "sh",
                    "-c",
                    "while read line; do echo got $line; [ $line != end ] || exit 5; done",
                ],
            );
            config.stdin = true;
            let id = bed.run(&config).await?;
            let url = attach_url(&bed, &id, true, false).await?;
            let mut command = client(node, "attach", &url, protocol)?;
            command.arg("--stdin");
            let (_, out, err) = run_and_hold(command, b"one\nend\n", HOLD).await?;
            ensure!(out == "got one\ngot end\n", "{protocol}: {out:?} {err}");
            ensure!(
                bed.cri.exited(&id).await?.exit_code == 5,
                "{protocol}: another exit code"
            );
            // What went to a client went to the log as well.
            ensure!(
                logs::joined(&logs::read(&logs::path(&bed.config, &config))?, "stdout") == out,
                "{protocol}: the log differs"
            );
        }
        Ok(())
    });
}

#[test]
fn e4_stdin_once_closes_stdin_after_the_first_client() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "cat; echo eof"]);
        config.stdin = true;
        config.stdin_once = true;
        let id = bed.run(&config).await?;
        let url = attach_url(&bed, &id, true, false).await?;
        let mut command = client(node, "attach", &url, "spdy")?;
        command.arg("--stdin");
        run_and_hold(command, b"hello\n", Duration::from_millis(300)).await?;
        let status = bed.cri.exited(&id).await?;
        ensure!(status.exit_code == 0, "exit code {}", status.exit_code);
        let out = logs::joined(&logs::read(&logs::path(&bed.config, &config))?, "stdout");
        ensure!(out == "hello\neof\n", "{out:?}");
        Ok(())
    });
}

#[test]
fn attach_to_a_terminal() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for &protocol in protocols(node) {
            let mut config = container(protocol, BUSYBOX, &["sh"]);
            config.stdin = true;
            config.tty = true;
            let id = bed.run(&config).await?;
            let url = attach_url(&bed, &id, true, true).await?;
            let mut command = client(node, "attach", &url, protocol)?;
            command.args(["--stdin", "--tty", "--sizes", "100x30"]);
            let (_, out, err) = run_and_hold(command, b"sleep 0.3; stty size; exit 6\n", HOLD).await?;
            ensure!(out.contains("30 100"), "{protocol}: {out:?} {err}");
            ensure!(
                bed.cri.exited(&id).await?.exit_code == 6,
                "{protocol}: another exit code"
            );
        }
        Ok(())
    });
}

/// A port-forward client; ends when its stdin does.
struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    async fn start(node: &Node, bed: &Bed, protocol: &str, remote: u16) -> Result<Self> {
        let request = v1::PortForwardRequest {
            pod_sandbox_id: bed.pod.clone(),
            port: vec![remote.into()],
        };
        let url = bed.cri.runtime.clone().port_forward(request).await?.into_inner().url;
        let mut command = client(node, "portforward", &url, protocol)?;
        command.args(["--ports", &format!("0:{remote}")]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let line = tokio::task::spawn_blocking(move || -> Result<String> {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line)?;
            Ok(line)
        });
        let line = tokio::time::timeout(Duration::from_secs(20), line)
            .await
            .context("the client hangs")???;
        let Some(port) = line
            .strip_prefix("ready ")
            .and_then(|rest| rest.split(':').next())
            .and_then(|port| port.parse().ok())
        else {
            bail!("{protocol}: the client said {line:?}");
        };
        Ok(Self { child, port })
    }

    /// A request through the tunnel; blocking, so that it stands for a client of its own.
    fn get(&self, node: &Node) -> Result<String> {
        let mut stream = netns::connect(node.init(), ([127, 0, 0, 1], self.port).into())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn port_forward_reaches_what_listens_on_loopback_in_the_pod() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed
            .run(&container(
                "web",
                BUSYBOX,
                &["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/srv"],
            ))
            .await?;
        bed.cri.sh(&id, "i=0; until wget -q -O /dev/null http://127.0.0.1:8080/; do i=$((i+1)); [ $i -lt 50 ] || exit 1; sleep 0.1; done").await?;
        for &protocol in protocols(node) {
            let forward = Forward::start(node, &bed, protocol, 8080).await?;
            for _ in 0..5 {
                let text = forward.get(node)?;
                ensure!(text.contains("served by the pod"), "{protocol}: {text:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_streaming_url_is_good_for_one_use() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let url = exec_url(&bed, &id, &["echo", "once"], false, false).await?;
        let (code, out, _) = run(client(node, "exec", &url, "spdy")?, b"").await?;
        ensure!(code == Some(0) && out == "once\n", "{code:?} {out}");
        let (code, out, _) = run(client(node, "exec", &url, "spdy")?, b"").await?;
        ensure!(code != Some(0) && out.is_empty(), "the second use: {code:?} {out}");
        Ok(())
    });
}
