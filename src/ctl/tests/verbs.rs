//! The verbs from the command line to the server and back.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "test code"
)]
#![allow(clippy::too_many_lines, reason = "the fake server answers all calls in one match")]

mod fake;

use std::io::Write as _;
use std::process::Output;
use std::time::Duration;

use fake::{CONTAINER, IMAGE, POD, Running, ctl};
use proto::cri::{
    CheckpointContainerRequest, ContainerState, CreateContainerRequest, ListContainersRequest, PullImageRequest,
    RunPodSandboxRequest, UpdateContainerResourcesRequest, UpdateRuntimeConfigRequest,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

async fn run(running: &Running, args: &[&str], input: &[u8]) -> Output {
    let mut child = ctl(&running.node.socket(), args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = tokio::spawn(async move { stdin.write_all(&input).await });
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output())
        .await
        .expect("hangs")
        .unwrap();
    feeder.abort();
    output
}

async fn said(running: &Running, args: &[&str]) -> String {
    let output = run(running, args, b"").await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_statuses() {
    let running = fake::start("lists");
    assert!(
        said(&running, &["version"])
            .await
            .starts_with("Version:  0.1.0\nRuntimeName:  fake\n")
    );
    let table = said(&running, &["ps", "-a"]).await;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect())
        .collect();
    assert_eq!(
        rows[0],
        [
            "CONTAINER",
            "IMAGE",
            "CREATED",
            "STATE",
            "NAME",
            "ATTEMPT",
            "POD ID",
            "POD",
            "NAMESPACE"
        ]
    );
    assert_eq!(
        (rows[1][0], rows[1][1], rows[1][3]),
        (&CONTAINER[..13], &IMAGE["sha256:".len()..][..13], "Running")
    );
    assert_eq!(rows[1][4..], ["web", "1", &POD[..13], "site", "default"]);
    assert_eq!(said(&running, &["ps", "-q"]).await, format!("{CONTAINER}\n"));
    let filter = running
        .node
        .asked::<ListContainersRequest>("ListContainers")
        .filter
        .unwrap();
    assert_eq!(filter.state.unwrap().state(), ContainerState::ContainerRunning);
    assert_eq!(said(&running, &["ps", "--name", "^db$"]).await.lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(&said(&running, &["ps", "-o", "json"]).await).unwrap();
    assert_eq!(json["containers"][0]["createdAt"], "1700000000000000000");
    assert!(
        said(&running, &["ps", "-o", "yaml"])
            .await
            .contains("state: CONTAINER_RUNNING")
    );
    assert!(said(&running, &["pods"]).await.contains("(default)"));
    assert!(said(&running, &["images"]).await.contains("1.23MB"));
    let json: serde_json::Value = serde_json::from_str(&said(&running, &["inspect", &CONTAINER[..8]]).await).unwrap();
    assert_eq!(
        (&json["status"]["createdAt"], &json["pid"]),
        (&"2023-11-14T22:13:20Z".into(), &"7".into())
    );
    assert!(
        said(&running, &["inspect", "-o", "table", CONTAINER])
            .await
            .contains("State: CONTAINER_RUNNING")
    );
    let json: serde_json::Value = serde_json::from_str(&said(&running, &["info"]).await).unwrap();
    assert_eq!(json["config"]["root"], "/x");
    assert_eq!(
        json["runtimeHandlers"][0],
        serde_json::json!({"name": "kata", "features": {"user_namespaces": true}})
    );
    assert_eq!(
        json["features"],
        serde_json::json!({"supplemental_groups_policy": true})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rarer_verbs() {
    let running = fake::start("rarer");
    let told = said(&running, &["metricdescs"]).await;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["descriptors"][0]["labelKeys"][0], "id", "{told}");
    let told = said(&running, &["metricsp", "-o", "yaml"]).await;
    assert!(told.contains("container_processes") && told.contains(POD), "{told}");
    said(&running, &["update-runtime-config", "--pod-cidr", "10.0.0.0/24"]).await;
    let asked: UpdateRuntimeConfigRequest = running.node.asked("UpdateRuntimeConfig");
    let network = asked.runtime_config.unwrap().network_config.unwrap();
    assert_eq!(network.pod_cidr, "10.0.0.0/24");
    assert_eq!(
        said(&running, &["update", "--memory", "1048576", CONTAINER])
            .await
            .trim(),
        CONTAINER
    );
    let asked: UpdateContainerResourcesRequest = running.node.asked("UpdateContainerResources");
    assert_eq!(asked.linux.unwrap().memory_limit_in_bytes, 1 << 20);
    let output = run(&running, &["checkpoint", "-e", "/tmp/x.tar", CONTAINER], b"").await;
    assert!(!output.status.success());
    let asked: CheckpointContainerRequest = running.node.asked("CheckpointContainer");
    assert_eq!(asked.location, "/tmp/x.tar");
    let script = said(&running, &["completion", "bash"]).await;
    assert!(script.contains("metricdescs") && script.contains("crictl"), "{script}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_codes_and_exit_codes() {
    let running = fake::start("errors");
    let output = run(&running, &["inspect", "nothing"], b"").await;
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("rpc error: code = NotFound desc = container nothing not found"),
        "{error}"
    );
    assert_eq!(run(&running, &["frobnicate"], b"").await.status.code(), Some(2));
    assert_eq!(run(&running, &["stop"], b"").await.status.code(), Some(2));
    assert!(
        !run(&running, &["inspect", "-o", "go-template", "x"], b"")
            .await
            .status
            .success()
    );
    let away = ctl(&running.node.dir.join("away"), &["--max-retries", "0", "version"])
        .output()
        .await
        .unwrap();
    assert!(String::from_utf8(away.stderr).unwrap().contains("away"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_and_a_container_from_files() {
    let running = fake::start("files");
    let (pod, container) = (
        running.node.dir.join("pod.yaml"),
        running.node.dir.join("container.json"),
    );
    std::fs::write(
        &pod,
        "metadata:\n  name: site\n  namespace: default\nlinux:\n  cgroup_parent: /x\n",
    )
    .unwrap();
    let text =
        r#"{"metadata":{"name":"web"},"image":{"image":"busybox"},"command":["sh"],"envs":[{"key":"A","value":"1"}]}"#;
    std::fs::write(&container, text).unwrap();
    let (pod, container) = (pod.to_str().unwrap(), container.to_str().unwrap());
    assert_eq!(said(&running, &["runp", "-r", "kata", pod]).await, format!("{POD}\n"));
    let request: RunPodSandboxRequest = running.node.asked("RunPodSandbox");
    assert_eq!(
        (
            request.runtime_handler.as_str(),
            request.config.unwrap().linux.unwrap().cgroup_parent.as_str()
        ),
        ("kata", "/x")
    );
    assert_eq!(
        said(&running, &["create", POD, container, pod]).await,
        format!("{CONTAINER}\n")
    );
    let request: CreateContainerRequest = running.node.asked("CreateContainer");
    let config = request.config.unwrap();
    assert_eq!(config.envs[0].value.as_ref(), b"1");
    assert_eq!(config.image.unwrap().user_specified_image, "busybox");
    assert_eq!(
        said(&running, &["run", "--creds", "me:secret", container, pod]).await,
        format!("{CONTAINER}\n")
    );
    let request: PullImageRequest = running.node.asked("PullImage");
    assert_eq!(request.auth.unwrap().password, "secret");
    assert_eq!(request.image.unwrap().image, "busybox");
    assert!(said(&running, &["pull", "busybox"]).await.contains(IMAGE));
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_passes_everything_on() {
    let running = fake::start("exec");
    let output = run(
        &running,
        &["exec", CONTAINER, "sh", "-c", "echo out; echo err >&2; exit 7"],
        b"",
    )
    .await;
    assert_eq!(
        (output.status.code(), output.stdout.as_slice(), output.stderr.as_slice()),
        (Some(7), &b"out\n"[..], &b"err\n"[..])
    );
    let output = run(
        &running,
        &[
            "exec",
            "-s",
            CONTAINER,
            "sh",
            "-c",
            "printf out; printf err >&2; exit 9",
        ],
        b"",
    )
    .await;
    assert_eq!(
        (output.status.code(), output.stdout.as_slice(), output.stderr.as_slice()),
        (Some(9), &b"out"[..], &b"err"[..])
    );
    let input: Vec<u8> = (0..5_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let output = run(&running, &["exec", "-i", "-r", "spdy", CONTAINER, "cat"], &input).await;
    assert!(
        output.status.success() && output.stdout == input,
        "{} of {}",
        output.stdout.len(),
        input.len()
    );
    assert_eq!(
        said(&running, &["exec", "--name", "web", "echo", "hi"]).await,
        format!("{CONTAINER}:\nhi\n")
    );
    let output = run(&running, &["exec", CONTAINER, "/does/not/exist"], b"").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("No such file"));
    assert_eq!(said(&running, &["attach", CONTAINER]).await, "attached\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_over_a_rotation_to_the_end() {
    let running = fake::start("logs");
    let log = running.node.log();
    let line = |n: u32| format!("2026-01-01T00:00:00Z stdout F {n}\n");
    std::fs::write(&log, (1..=3).map(line).collect::<String>()).unwrap();
    assert_eq!(said(&running, &["logs", "--tail", "2", CONTAINER]).await, "2\n3\n");
    let mut child = ctl(&running.node.socket(), &["logs", "-f", CONTAINER]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for n in 1..=3 {
        assert_eq!(lines.next_line().await.unwrap().unwrap(), n.to_string());
    }
    let mut old = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    old.write_all(line(4).as_bytes()).unwrap();
    std::fs::rename(&log, log.with_extension("log.1")).unwrap();
    old.write_all(line(5).as_bytes()).unwrap();
    std::fs::write(&log, line(6)).unwrap();
    for n in 4..=6 {
        assert_eq!(lines.next_line().await.unwrap().unwrap(), n.to_string());
    }
    running.node.exit();
    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait())
        .await
        .expect("hangs")
        .unwrap();
    assert!(ended.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded() {
    let running = fake::start("forward");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let remote = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut word = [0; 4];
                socket.read_exact(&mut word).await.unwrap();
                socket.write_all(&word.repeat(100_000)).await.unwrap();
            });
        }
    });
    let mut child = ctl(&running.node.socket(), &["port-forward", POD, &format!(":{remote}")])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let local = line
        .strip_prefix("Forwarding from 127.0.0.1:")
        .and_then(|rest| rest.split_once(" -> "))
        .unwrap()
        .0;
    let local: u16 = local.parse().unwrap();
    for _ in 0..10 {
        let mut socket = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
        socket.write_all(b"ping").await.unwrap();
        let mut got = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut got))
            .await
            .expect("hangs")
            .unwrap();
        assert_eq!(got.len(), 400_000);
    }
    child.kill().await.unwrap();
}

/// The program on a terminal of its own, of 100 columns and 40 rows.
fn on_a_terminal(running: &Running, args: &[&str]) -> (tokio::process::Child, std::fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let size = rustix::termios::Winsize {
        ws_row: 40,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    let mut command = ctl(&running.node.socket(), args);
    command.stdin(terminal.try_clone().unwrap()).stdout(terminal);
    (command.spawn().unwrap(), std::fs::File::from(master))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_raw_while_it_is_used_and_told_of_its_size() {
    let running = fake::start("terminal");
    let (mut child, mut master) = on_a_terminal(&running, &["exec", "-it", CONTAINER, "@terminal"]);
    let reader = master.try_clone().unwrap();
    let seen = tokio::task::spawn_blocking(move || {
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
        let mut seen = Vec::new();
        // The read fails with EIO once the program has closed its end.
        while let Some(Ok(line)) = lines.next() {
            seen.push(line.trim_end().to_owned());
        }
        seen
    });
    let local = |master: &std::fs::File| rustix::termios::tcgetattr(master).unwrap().local_modes;
    let echo = rustix::termios::LocalModes::ECHO | rustix::termios::LocalModes::ICANON;
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while local(&master).intersects(echo) {
        assert!(std::time::Instant::now() < end, "never raw");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let size = rustix::termios::Winsize {
        ws_row: 50,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    // The program is not the terminal's foreground group here, so it has to be told.
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    // Ctrl-C is the process's, not ours.
    master.write_all(b"\x03").unwrap();
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait())
        .await
        .expect("hangs")
        .unwrap();
    assert_eq!(status.code(), Some(5));
    assert!(local(&master).contains(echo), "the terminal's mode is restored");
    let seen = tokio::time::timeout(Duration::from_secs(10), seen)
        .await
        .expect("hangs")
        .unwrap();
    assert_eq!(seen, ["100x40", "120x50", "[3]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keys_leave_a_terminal_session() {
    let running = fake::start("detach");
    let (mut child, mut master) = on_a_terminal(&running, &["exec", "-it", CONTAINER, "@terminal"]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    master.write_all(b"\x10\x11").unwrap();
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait())
        .await
        .expect("hangs")
        .unwrap();
    assert!(status.success());
}
