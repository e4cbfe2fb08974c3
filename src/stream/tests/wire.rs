//! What client-go does not do: refusals over plain HTTP, and the older WebSocket protocols.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "test code")]
#![allow(unreachable_pub, reason = "shared by two test programs")]
#![allow(dead_code, reason = "each test program uses its part of `fake`")]

mod fake;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fake::node;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_websockets::{ClientBuilder, MaybeTlsStream, Message, WebSocketStream};

fn path(url: &str) -> &str {
    url.splitn(4, '/').nth(3).unwrap()
}

/// One request; the whole answer until the server closes.
async fn ask(address: std::net::SocketAddr, head: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset counts as a close.
    tokio::time::timeout(Duration::from_secs(15), socket.read_to_end(&mut answer))
        .await
        .expect("stays open")
        .ok();
    String::from_utf8_lossy(&answer).to_lowercase()
}

#[tokio::test]
async fn refusals_close_the_connection_and_use_the_token_up() {
    let node = node();
    let address = node.server.local_addr();
    let url = node.exec(&["true"], false, false);
    let exec = format!("/{}", path(&url));
    let spdy =
        "Host: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9.channel.k8s.io\r\n\r\n";
    let answer = ask(address, &format!("PUT {exec} HTTP/1.1\r\n{spdy}")).await;
    assert!(answer.starts_with("http/1.1 405"), "{answer}");
    let answer = ask(
        address,
        &format!("GET /exec/00000000000000000000000000000000 HTTP/1.1\r\n{spdy}"),
    )
    .await;
    assert!(
        answer.starts_with("http/1.1 404") && answer.contains("connection: close"),
        "{answer}"
    );
    let answer = ask(address, &format!("POST {exec} HTTP/1.1\r\n{spdy}")).await;
    assert!(answer.starts_with("http/1.1 403"), "{answer}");
    assert_eq!(
        answer.matches("x-accepted-stream-protocol-versions: ").count(),
        4,
        "{answer}"
    );
    assert!(answer.contains("connection: close"), "{answer}");
    let answer = ask(address, &format!("POST {exec} HTTP/1.1\r\n{spdy}")).await;
    assert!(answer.starts_with("http/1.1 404"), "{answer}");
    for head in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET //evil.example HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /../exec HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let answer = ask(address, head).await;
        assert!(
            answer.starts_with("http/1.1 404") && !answer.contains("location:"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn smuggling_and_endless_heads_are_refused() {
    let node = node();
    let address = node.server.local_addr();
    for head in [
        "GET /exec/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST /exec/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ] {
        let answer = ask(address, head).await;
        assert!(answer.starts_with("http/1.1 400"), "{answer}");
    }
    let answer = ask(
        address,
        &format!("GET / HTTP/1.1\r\nHost: x\r\nBig: {}\r\n\r\n", "x".repeat(200_000)),
    )
    .await;
    assert!(answer.is_empty() || answer.starts_with("http/1.1 431"), "{answer}");
    // A client that never finishes its request is cut off.
    let answer = ask(address, "GET / HTTP/1.1\r\nHost:").await;
    assert!(answer.is_empty() || answer.starts_with("http/1.1 408"), "{answer}");
}

async fn websocket(url: &str, protocol: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let mut builder = ClientBuilder::new().uri(&url.replacen("http", "ws", 1)).unwrap();
    if !protocol.is_empty() {
        builder = builder
            .add_header(http::header::SEC_WEBSOCKET_PROTOCOL, protocol.parse().unwrap())
            .unwrap();
    }
    let (socket, response) = builder.connect().await.unwrap();
    let agreed = response.headers().get(http::header::SEC_WEBSOCKET_PROTOCOL);
    assert_eq!(agreed.map_or("", |v| v.to_str().unwrap()), protocol);
    socket
}

/// All data by channel until the server closes, and its close code.
async fn channels(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>, base64: bool) -> (Vec<Vec<u8>>, u16) {
    let mut channels = vec![Vec::new(); 5];
    loop {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next())
            .await
            .expect("hangs")
            .unwrap()
            .unwrap();
        if let Some((code, _)) = message.as_close() {
            return (channels, code.into());
        }
        assert_eq!(message.is_text(), base64);
        let (channel, data) = message.as_payload().split_first().unwrap();
        if base64 {
            channels[usize::from(channel - b'0')].extend(STANDARD.decode(data).unwrap());
        } else {
            channels[usize::from(*channel)].extend_from_slice(data);
        }
    }
}

#[tokio::test]
async fn every_websocket_version_runs_a_command() {
    let node = node();
    for protocol in [
        "",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "v5.channel.k8s.io",
    ] {
        let base64 = protocol.contains("base64");
        let url = node.exec(
            &["sh", "-c", "read line; echo got $line; echo bad >&2; exit 6"],
            true,
            false,
        );
        let mut socket = websocket(&url, protocol).await;
        let input = if base64 {
            Message::text(format!("0{}", STANDARD.encode("word\n")))
        } else {
            Message::binary(bytes::Bytes::from_static(b"\x00word\n"))
        };
        socket.send(input).await.unwrap();
        let (channels, code) = channels(&mut socket, base64).await;
        let channels: Vec<String> = channels.into_iter().map(|c| String::from_utf8(c).unwrap()).collect();
        assert_eq!(
            (channels[1].as_str(), channels[2].as_str(), code),
            ("got word\n", "bad\n", 1000),
            "{protocol}"
        );
        if protocol.starts_with('v') {
            let status: serde_json::Value = serde_json::from_str(&channels[3]).unwrap();
            assert_eq!(status["details"]["causes"][0]["message"], "6", "{protocol}");
        } else {
            assert!(channels[3].ends_with("exit status 6"), "{protocol}: {}", channels[3]);
        }
    }
}

#[tokio::test]
async fn version_5_ends_stdin_with_a_signal() {
    let node = node();
    let url = node.exec(&["wc", "-c"], true, false);
    let mut socket = websocket(&url, "v5.channel.k8s.io").await;
    socket
        .send(Message::binary(bytes::Bytes::from_static(b"\x00four")))
        .await
        .unwrap();
    socket
        .send(Message::binary(bytes::Bytes::from_static(&[255, 0])))
        .await
        .unwrap();
    let (channels, _) = channels(&mut socket, false).await;
    assert_eq!(String::from_utf8(channels[1].clone()).unwrap().trim(), "4");
    let url = node.exec(&["cat"], true, false);
    let mut socket = websocket(&url, "v5.channel.k8s.io").await;
    socket
        .send(Message::binary(bytes::Bytes::from_static(&[255, 9])))
        .await
        .unwrap();
    let (_, code) = self::channels(&mut socket, false).await;
    assert_eq!(code, 1002);
    node.quiet(Duration::from_secs(12)).await;
}

#[tokio::test]
async fn a_process_that_waits_for_its_output_still_gets_its_input() {
    let node = node();
    let url = node.exec(&["cat"], true, false);
    let socket = websocket(&url, "v5.channel.k8s.io").await;
    let (mut sink, mut stream) = socket.split();
    let sender = tokio::spawn(async move {
        for _ in 0..300 {
            sink.send(Message::binary(vec![0; 60_000])).await.unwrap();
        }
        sink.send(Message::binary(vec![255, 0])).await.unwrap();
    });
    let mut got = 0;
    while let Some(message) = tokio::time::timeout(Duration::from_secs(20), stream.next())
        .await
        .expect("hangs")
    {
        let message = message.unwrap();
        if message.is_binary() && message.as_payload()[0] == 1 {
            got += message.as_payload().len() - 1;
        }
    }
    sender.await.unwrap();
    assert_eq!(got, 300 * 59_999);
}

#[tokio::test]
async fn the_older_port_forward_names_its_ports_and_reports_errors() {
    let node = node();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut word = [0; 4];
        socket.read_exact(&mut word).await.unwrap();
        socket.write_all(b"pong").await.unwrap();
    });
    let closed = {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        taken.local_addr().unwrap().port()
    };
    let url = format!("{}?port={open},{closed}", node.forward(&[]));
    let mut socket = websocket(&url, "v4.channel.k8s.io").await;
    socket
        .send(Message::binary(bytes::Bytes::from_static(b"\x00ping")))
        .await
        .unwrap();
    let mut channels = vec![Vec::new(); 4];
    while channels[0].len() < 6 || channels[3].len() < 3 {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next())
            .await
            .expect("hangs")
            .unwrap()
            .unwrap();
        let (channel, data) = message.as_payload().split_first().unwrap();
        channels[usize::from(*channel)].extend_from_slice(data);
    }
    assert_eq!(channels[0], [&open.to_le_bytes()[..], b"pong"].concat());
    assert_eq!(channels[1], open.to_le_bytes());
    assert_eq!(channels[2], closed.to_le_bytes());
    assert_eq!(channels[3][..2], closed.to_le_bytes());
    assert!(String::from_utf8_lossy(&channels[3][2..]).contains("refused"));
    let none = ClientBuilder::new()
        .uri(&node.forward(&[]).replacen("http", "ws", 1))
        .unwrap()
        .connect()
        .await;
    none.unwrap_err();
}

#[tokio::test]
async fn the_older_port_forward_ends_when_the_pod_does() {
    let node = node();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"all of it").await.unwrap();
    });
    let url = format!("{}?port={port}", node.forward(&[]));
    let mut socket = websocket(&url, "v4.channel.k8s.io").await;
    let mut data = Vec::new();
    // This client never ends its side: the protocol gives it no way to.
    while let Some(Ok(message)) = tokio::time::timeout(Duration::from_secs(10), socket.next())
        .await
        .expect("hangs")
    {
        if message.is_binary() && message.as_payload()[0] == 0 {
            data.extend_from_slice(&message.as_payload()[1..]);
        }
    }
    assert_eq!(data[2..], *b"all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_fail_or_vanish_leave_nothing_behind() {
    let node = node();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let warm_up = node.exec(&["true"], false, false);
    drop(channels(&mut websocket(&warm_up, "v5.channel.k8s.io").await, false).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = (tasks(), files());
    for n in 0..1000 {
        // A terminal, a program that does not exist (CVE-2022-23471).
        let url = node.exec(&["/does/not/exist"], true, true);
        let mut socket = websocket(&url, "v5.channel.k8s.io").await;
        if n % 2 == 0 {
            let (channels, _) = channels(&mut socket, false).await;
            assert!(String::from_utf8_lossy(&channels[3]).contains("No such file"));
        }
        // An attach whose client goes away at once (CVE-2025-64329).
        drop(websocket(&node.attach(), "v5.channel.k8s.io").await);
    }
    node.quiet(Duration::from_secs(15)).await;
    let end = std::time::Instant::now() + Duration::from_secs(15);
    while tasks() > before.0 || files() > before.1 {
        assert!(
            std::time::Instant::now() < end,
            "tasks and files: {before:?}, now {:?}",
            (tasks(), files())
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn malformed_websocket_frames_end_the_connection() {
    let node = node();
    let address = node.server.local_addr();
    let frames: [&[u8]; 6] = [
        // Not masked.
        b"\x82\x02\x00a",
        // A length of 2^63, and one beyond the limit.
        b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00mask",
        b"\x82\xff\x00\x00\x00\x00\x7f\xff\xff\xffmask",
        // A control frame in fragments, one that is too long, and a reserved opcode.
        b"\x09\x80mask",
        b"\x89\xfe\x00\x7emask",
        b"\x83\x80mask",
    ];
    for frame in frames {
        let url = node.exec(&["cat"], true, false);
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET /{} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
            path(&url)
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(frame).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut answer))
            .await
            .expect("stays open")
            .ok();
        assert!(
            answer.starts_with(b"HTTP/1.1 101 "),
            "{frame:?}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    node.quiet(Duration::from_secs(12)).await;
}
