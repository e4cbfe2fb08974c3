//! The server against the kubelet's own clients: `k8s.io/client-go` remotecommand and portforward,
//! over SPDY and over WebSocket.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "test code"
)]
#![allow(unreachable_pub, reason = "shared by two test programs")]
#![allow(dead_code, reason = "each test program uses its part of `fake`")]

mod fake;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake::{client, node, node_with, run, start};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;

const PROTOCOLS: [&str; 2] = ["spdy", "ws"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes that do not repeat with any period of a power of two.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 ^ (n / 65_521) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_both_outputs() {
    let node = node();
    for protocol in PROTOCOLS {
        for code in [0, 1, 7, 137, 255] {
            let script = format!("echo out; echo err >&2; exit {code}");
            let url = node.exec(&["sh", "-c", &script], false, false);
            let output = run(&["exec", "--url", &url, "--protocol", protocol], b"").await;
            assert_eq!(output.status.code(), Some(code), "{protocol}: {output:?}");
            assert_eq!(
                (text(&output.stdout), text(&output.stderr)),
                ("out\n".to_owned(), "err\n".to_owned()),
                "{protocol}"
            );
        }
        let url = node.exec(&["/does/not/exist"], false, false);
        let output = run(&["exec", "--url", &url, "--protocol", protocol], b"").await;
        assert_eq!(output.status.code(), Some(125));
        assert!(text(&output.stderr).contains("No such file"), "{output:?}");
    }
    node.quiet(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_of_20_mb_comes_back_and_its_end_goes_through() {
    let node = node();
    let input = pattern(20_000_000);
    for protocol in PROTOCOLS {
        let url = node.exec(&["cat"], true, false);
        let output = run(&["exec", "--url", &url, "--protocol", protocol, "--stdin"], &input).await;
        assert_eq!(output.status.code(), Some(0), "{protocol}: {}", text(&output.stderr));
        assert!(
            output.stdout == input,
            "{protocol}: {} of {} bytes",
            output.stdout.len(),
            input.len()
        );
        // The answer comes after the end of stdin.
        let url = node.exec(&["sh", "-c", "wc -c; exit 3"], true, false);
        let output = run(&["exec", "--url", &url, "--protocol", protocol, "--stdin"], &input).await;
        assert_eq!(
            (text(&output.stdout).trim(), output.status.code()),
            ("20000000", Some(3)),
            "{protocol}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_before_its_stdin_loses_no_output() {
    let node = node();
    let input = pattern(20_000_000);
    for protocol in PROTOCOLS {
        let url = node.exec(&["sh", "-c", "head -c 10; exit 4"], true, false);
        let begin = Instant::now();
        let output = run(&["exec", "--url", &url, "--protocol", protocol, "--stdin"], &input).await;
        assert_eq!(
            (output.stdout.as_slice(), output.status.code()),
            (&input[..10], Some(4)),
            "{protocol}: {output:?}"
        );
        assert!(begin.elapsed() < Duration::from_secs(5), "{protocol} lingers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_of_the_output_is_never_lost() {
    let node = node();
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    for round in 0..5 {
        for protocol in PROTOCOLS {
            let url = node.exec(&["seq", "1", "200000"], false, false);
            let output = run(&["exec", "--url", &url, "--protocol", protocol], b"").await;
            assert_eq!(output.status.code(), Some(0));
            assert!(
                text(&output.stdout) == expected,
                "{protocol}, round {round}: {} bytes",
                output.stdout.len()
            );
        }
    }
}

/// A way to `server` with 50 ms of delay at first and 1 MB/s from the server.
async fn slow_way(server: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move {
                    tokio::io::copy(&mut from_client, &mut to_server).await.ok();
                    to_server.shutdown().await.ok();
                });
                tokio::time::sleep(Duration::from_millis(50)).await;
                let mut buffer = vec![0; 10_000];
                while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    if to_client.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_way_loses_nothing() {
    let node = node();
    let server = node.server.local_addr();
    let way = slow_way(server).await;
    let expected: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
    for protocol in PROTOCOLS {
        let url = node
            .exec(&["seq", "1", "1000000"], true, false)
            .replace(&server.to_string(), &way.to_string());
        // Stdin stays open, so the client's keep-alive pings arrive after the process has ended.
        let mut child = start(&["exec", "--url", &url, "--protocol", protocol, "--stdin"]);
        let _open = child.stdin.take();
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output())
            .await
            .expect("hangs")
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{protocol}: {}", text(&output.stderr));
        assert!(
            text(&output.stdout) == expected,
            "{protocol}: {} of {} bytes",
            output.stdout.len(),
            expected.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn terminal_sizes_arrive_in_order() {
    let node = node();
    for protocol in PROTOCOLS {
        let url = node.exec(&["@sizes"], true, true);
        let args = [
            "exec",
            "--url",
            &url,
            "--protocol",
            protocol,
            "--tty",
            "--stdin",
            "--sizes",
            "80x24,100x40,999x50",
        ];
        let output = run(&args, b"").await;
        assert_eq!(
            (text(&output.stdout), output.status.code()),
            ("80x24\n100x40\n999x50\n".to_owned(), Some(0)),
            "{protocol}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_joins_and_leaves() {
    let node = node();
    for protocol in PROTOCOLS {
        let url = node.attach();
        let output = run(
            &[
                "attach",
                "--url",
                &url,
                "--protocol",
                protocol,
                "--stdin",
                "--stderr=false",
            ],
            b"hello\n",
        )
        .await;
        assert_eq!(
            (text(&output.stdout), output.status.code()),
            ("attached\nhello\n".to_owned(), Some(0)),
            "{protocol}: {output:?}"
        );
    }
    node.quiet(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_its_process_back() {
    let node = node();
    for protocol in PROTOCOLS {
        let before = node.fake.flooded.load(Ordering::SeqCst);
        let url = node.exec(&["@flood"], false, false);
        let mut child = start(&["exec", "--url", &url, "--protocol", protocol]);
        // The test does not read the client's stdout.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let first = node.fake.flooded.load(Ordering::SeqCst) - before;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let second = node.fake.flooded.load(Ordering::SeqCst) - before;
        assert_eq!(first, second, "{protocol}: still flows");
        assert!(first > 0 && first < 24 << 20, "{protocol}: {first}");
        child.kill().await.unwrap();
        node.quiet(Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_ends_its_session() {
    let node = node();
    for protocol in PROTOCOLS {
        let before = node.fake.swallowed.load(Ordering::SeqCst);
        let url = node.exec(&["@swallow"], true, false);
        let mut child = start(&["exec", "--url", &url, "--protocol", protocol, "--stdin"]);
        child.stdin.as_mut().unwrap().write_all(&[1; 1000]).await.unwrap();
        while node.fake.swallowed.load(Ordering::SeqCst) - before < 1000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        child.kill().await.unwrap();
        node.quiet(Duration::from_secs(12)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_ended_with_a_reason() {
    let node = node_with(|options| options.idle_timeout = Duration::from_millis(500));
    for protocol in PROTOCOLS {
        let url = node.exec(&["sleep", "100"], false, false);
        let output = run(&["exec", "--url", &url, "--protocol", protocol], b"").await;
        assert_eq!(output.status.code(), Some(125));
        assert!(text(&output.stderr).contains("idle"), "{protocol}: {output:?}");
    }
    node.quiet(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_works_once() {
    let node = node();
    for protocol in PROTOCOLS {
        let url = node.exec(&["true"], false, false);
        assert_eq!(
            run(&["exec", "--url", &url, "--protocol", protocol], b"")
                .await
                .status
                .code(),
            Some(0)
        );
        let again = run(&["exec", "--url", &url, "--protocol", protocol], b"").await;
        assert_eq!(again.status.code(), Some(125), "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_certificate_that_is_replaced() {
    let dir = std::path::PathBuf::from(format!("{}/tls-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let renew = || {
        let made = std::process::Command::new(client())
            .arg("certificate")
            .arg(&dir)
            .status()
            .unwrap();
        assert!(made.success());
    };
    renew();
    let tls = Some(stream::TlsOptions {
        certificate: dir.join("cert.pem"),
        key: dir.join("key.pem"),
        ..Default::default()
    });
    let node = node_with(|options| options.tls = tls);
    for round in 0..3 {
        for protocol in PROTOCOLS {
            let url = node.exec(&["sh", "-c", "echo secret; exit 9"], false, false);
            assert!(url.starts_with("https://127.0.0.1:"), "{url}");
            let output = run(&["exec", "--url", &url, "--protocol", protocol], b"").await;
            assert_eq!(
                (text(&output.stdout), output.status.code()),
                ("secret\n".to_owned(), Some(9)),
                "{round} {output:?}"
            );
        }
        match round {
            0 => renew(),
            // Rubbish leaves the last good one in place.
            _ => std::fs::write(dir.join("cert.pem"), "rubbish").unwrap(),
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A TCP echo server that greets, and answers the end of its input with a last word.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
                write.write_all(b"<end>").await.ok();
            });
        }
    });
    port
}

/// Starts a forward of a free local port; the client and the local port.
async fn forward(url: &str, protocol: &str, remote: u16) -> (Child, u16) {
    let mut child = start(&[
        "portforward",
        "--url",
        url,
        "--protocol",
        protocol,
        "--ports",
        &format!("0:{remote}"),
    ]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .await
        .unwrap();
    let local = line
        .trim()
        .strip_prefix("ready ")
        .and_then(|pair| pair.split_once(':'))
        .expect("ready line")
        .0
        .parse()
        .unwrap();
    (child, local)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_connections_at_once_through_one_forward() {
    let node = node();
    let remote = echo().await;
    for protocol in PROTOCOLS {
        let (mut child, local) = forward(&node.forward(&[remote]), protocol, remote).await;
        let connections = (0..100).map(|n| {
            tokio::spawn(async move {
                let mut socket = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
                let sent = pattern(1000 + n * 997);
                let (mut read, mut write) = socket.split();
                let send = async {
                    write.write_all(&sent).await.unwrap();
                    // The half-close has to reach the pod, and its last word has to come back.
                    write.shutdown().await.unwrap();
                };
                let mut got = Vec::new();
                let (_, received) = tokio::join!(send, read.read_to_end(&mut got));
                received.unwrap();
                assert_eq!(got.len(), sent.len() + 5, "connection {n}");
                assert!(got.starts_with(&sent) && got.ends_with(b"<end>"), "connection {n}");
            })
        });
        let done = futures_util::future::join_all(connections);
        for connection in tokio::time::timeout(Duration::from_secs(60), done)
            .await
            .expect("hangs")
        {
            connection.unwrap_or_else(|e| panic!("{protocol}: {e}"));
        }
        node.quiet(Duration::from_secs(2)).await;
        child.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_port_is_told() {
    let node = node();
    for protocol in PROTOCOLS {
        // Bound but not listening: refuses.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = taken.local_addr().unwrap().port();
        drop(taken);
        let (mut child, local) = forward(&node.forward(&[closed]), protocol, closed).await;
        let mut socket = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
        let mut got = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut got))
            .await
            .expect("hangs")
            .ok();
        assert!(got.is_empty());
        drop(child.stdin.take());
        let output = tokio::time::timeout(Duration::from_secs(10), child.wait_with_output())
            .await
            .expect("hangs")
            .unwrap();
        assert!(text(&output.stderr).contains("refused"), "{protocol}: {output:?}");
    }
    node.quiet(Duration::from_secs(2)).await;
}
