//! Clients that vanish, replay, tear frames, or want the server to hold more than it should.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::ws::{self, Client, Event};
use e2e::{Bed, Node, Options, test, test_with};

use super::{V5, blocking, count, exec, used};

/// One plain HTTP request with the headers of a WebSocket; the first line of the answer.
fn knock(node: &Node, url: &str) -> Result<String> {
    let (mut stream, path) = ws::dial(node, url)?;
    stream.write_all(ws::request(&path, V5).as_bytes())?;
    let head = ws::head(&mut stream)?;
    Ok(head.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn clients_that_vanish_leave_nothing() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let (_, descriptors) = used(node)?;
        for round in 0..3 {
            let mut open = Vec::new();
            for number in 0..20 {
                let command: &[&str] = match number % 3 {
                    0 => &["cat", "/dev/zero"],
                    1 => &["sleep", "56789"],
                    _ => &["sh", "-c", "trap '' HUP TERM PIPE; cat; sleep 56789"],
                };
                let url = exec(&bed, &id, command, true, number % 4 == 1).await?;
                let mut client = Client::open(node, &url, V5)?;
                client.send(0, b"half a line")?;
                if number % 2 == 0 {
                    // In the middle of a frame.
                    client.raw().write_all(&[0x82, 0xfe, 0x10])?;
                }
                open.push(client);
            }
            drop(open);
            e2e::wait::until(
                &format!("round {round}: descriptors as before"),
                Duration::from_secs(20),
                async || Ok((used(node)?.1 <= descriptors + 5).then_some(())),
            )
            .await?;
        }
        // What ignores the end of its streams is the container's, and goes with it.
        bed.cri.stop(&id, 5).await?;
        ensure!(count(node, "56789") == 0, "{} left", count(node, "56789"));
        Ok(())
    });
}

#[test]
fn a_url_used_twice_or_late_is_no_url() {
    let options = Options {
        config: "stream:\n  token_ttl_seconds: 1\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let url = exec(&bed, &id, &["true"], false, false).await?;
        ensure!(knock(node, &url)?.contains("101"), "the first use");
        ensure!(knock(node, &url)?.contains("404"), "the second use");
        let late = exec(&bed, &id, &["true"], false, false).await?;
        tokio::time::sleep(Duration::from_millis(1600)).await;
        ensure!(knock(node, &late)?.contains("404"), "the late use");
        // Another verb's path does not take the token, and neither does a part of it.
        let url = exec(&bed, &id, &["true"], false, false).await?;
        ensure!(
            knock(node, &url.replace("/exec/", "/attach/"))?.contains("404"),
            "another verb"
        );
        ensure!(knock(node, &url[..url.len() - 1])?.contains("404"), "a part of a token");
        Ok(())
    });
}

#[test]
fn frames_may_be_torn_at_every_byte() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let mut conversation = ws::message(0, b"one\n");
        conversation.extend(ws::frame(0x89, b"ping"));
        // A message of two frames, with a ping between them.
        conversation.extend(ws::frame(0x02, b"\0two"));
        conversation.extend(ws::frame(0x89, b""));
        conversation.extend(ws::frame(0x80, b" words\n"));
        conversation.extend(ws::message(0, &[b'x'; 130]));
        conversation.extend(ws::message(255, &[0]));
        let expected = format!("one\ntwo words\n{}", "x".repeat(130));
        for cut in 0..=conversation.len() {
            let url = exec(&bed, &id, &["cat"], true, false).await?;
            let mut client = Client::open(node, &url, V5)?;
            client.raw().write_all(&conversation[..cut])?;
            tokio::time::sleep(Duration::from_millis(3)).await;
            client.raw().write_all(&conversation[cut..])?;
            let output = blocking(move || client.output()).await?;
            ensure!(output == expected, "torn at {cut}: {output:?}");
        }
        // And byte by byte.
        let url = exec(&bed, &id, &["cat"], true, false).await?;
        let mut client = Client::open(node, &url, V5)?;
        for byte in &conversation {
            client.raw().write_all(&[*byte])?;
        }
        ensure!(blocking(move || client.output()).await? == expected, "byte by byte");
        Ok(())
    });
}

/// Sends `bytes` after the handshake, as much of them as the server takes; whether it ends the connection.
async fn ends(client: &mut Client, bytes: Vec<u8>) -> Result<bool> {
    let (mut writer, mut reader) = (client.another()?, client.another()?);
    let sent = tokio::task::spawn_blocking(move || writer.raw().write_all(&bytes).is_ok());
    let ended = blocking(move || {
        reader.raw().set_read_timeout(Some(Duration::from_secs(8)))?;
        loop {
            match reader.event() {
                Ok(Event::Close(_)) => return Ok(true),
                Ok(Event::Data(..)) => {}
                // Cut off, or still open after the time.
                Err(error) => return Ok(!format!("{error:#}").contains("temporarily unavailable")),
            }
        }
    })
    .await?;
    // A server that neither reads nor ends would block the writer; its end frees it.
    client.raw().shutdown(std::net::Shutdown::Both).ok();
    sent.await?;
    Ok(ended)
}

#[test]
fn websocket_frames_beyond_the_limit_are_refused_without_memory() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        // Once, so that what a first session needs for good is there.
        let url = exec(&bed, &id, &["true"], true, false).await?;
        Client::open(node, &url, V5)?.outcome()?;
        let (before, _) = used(node)?;
        let header = |length: u64| {
            let mut bytes = vec![0x82, 0xff];
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes
        };
        let mut cases: Vec<(&str, Vec<u8>)> = vec![
            ("2^63 bytes", header(u64::MAX)),
            ("2^62 bytes", header(1 << 62)),
            ("reserved bits", ws::frame(0xf2, b"\0x")),
            ("an unknown kind", ws::frame(0x83, b"x")),
            ("a ping of 200 bytes", ws::frame(0x89, &[b'x'; 200])),
            ("no mask", vec![0x82, 0x02, 0, b'x']),
            ("a continuation of nothing", ws::frame(0x80, b"x")),
        ];
        let mut large = header(1 << 30);
        large.extend(vec![0; 40 << 20]);
        cases.push(("1 GiB in one frame, of which 40 MB come", large));
        let mut pieces = ws::frame(0x02, &[0; 60_000]);
        for _ in 0..600 {
            pieces.extend(ws::frame(0x00, &[0; 60_000]));
        }
        cases.push(("36 MB in a message of many frames", pieces));
        for (name, bytes) in cases {
            // Nobody reads stdin.
            let url = exec(&bed, &id, &["sleep", "67890"], true, false).await?;
            let mut client = Client::open(node, &url, V5)?;
            ensure!(ends(&mut client, bytes).await?, "{name}: the connection goes on");
            let (now, _) = used(node)?;
            ensure!(now < before + 10_000, "{name}: {before} kB before, {now} kB after");
        }
        bed.cri.version().await?;
        bed.cri.stop(&id, 2).await.map_err(Into::into)
    });
}

/// A SPDY control frame.
fn control(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, 3, 0, kind, 0];
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(0).to_be_bytes()[1..]);
    bytes.extend_from_slice(body);
    bytes
}

/// A SYN_STREAM of stream 1 with a header block that inflates to `size` bytes of `fill`.
fn bomb(size: usize, fill: u8) -> Result<Vec<u8>> {
    let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let piece = vec![fill; 1 << 20];
    for _ in 0..size >> 20 {
        deflate.write_all(&piece)?;
    }
    let mut body = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    body.extend(deflate.finish()?);
    Ok(control(1, &body))
}

#[test]
fn header_bombs_are_refused_without_memory() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let spdy = |url: &str| -> Result<std::net::TcpStream> {
            let (mut stream, path) = ws::dial(node, url)?;
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
            );
            stream.write_all(head.as_bytes())?;
            ensure!(ws::head(&mut stream)?.starts_with("HTTP/1.1 101"), "refused");
            Ok(stream)
        };
        let url = exec(&bed, &id, &["true"], true, false).await?;
        drop(spdy(&url)?);
        let (before, _) = used(node)?;
        let mut counted = vec![0x7f, 0xff, 0xff, 0xff];
        counted.extend_from_slice(&[0; 64]);
        let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        deflate.write_all(&counted)?;
        let mut many = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        many.extend(deflate.finish()?);
        let cases = [
            ("32 MB of zeroes", bomb(32 << 20, 0)?),
            ("32 MB of letters", bomb(32 << 20, b'a')?),
            ("two thousand million headers", control(1, &many)),
            ("a control frame of 16 MB", {
                let mut bytes = vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff];
                bytes.extend(vec![0; 16 << 20]);
                bytes
            }),
            ("no zlib", control(1, &[0xff; 40])),
        ];
        for (name, bytes) in cases {
            let url = exec(&bed, &id, &["sleep", "67891"], true, false).await?;
            let mut stream = spdy(&url)?;
            let ended = blocking(move || {
                let mut writer = stream.try_clone()?;
                let sent = std::thread::spawn(move || writer.write_all(&bytes).is_ok());
                stream.set_read_timeout(Some(Duration::from_secs(8)))?;
                let mut rest = Vec::new();
                let ended = match stream.read_to_end(&mut rest) {
                    Ok(_) => true,
                    Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
                };
                stream.shutdown(std::net::Shutdown::Both).ok();
                sent.join().ok();
                Ok(ended)
            })
            .await?;
            ensure!(ended, "{name}: the connection goes on");
            let (now, _) = used(node)?;
            ensure!(now < before + 10_000, "{name}: {before} kB before, {now} kB after");
        }
        bed.cri.version().await?;
        Ok(())
    });
}

#[test]
fn urls_are_of_a_bounded_number_and_heads_of_a_bounded_length() {
    test_with(
        Options {
            quiet: true,
            ..Options::default()
        },
        async |node| -> Result<()> {
            let bed = Bed::new(node).await?;
            let id = bed.sleeper("main").await?;
            let mut last = None;
            for _ in 0..1100 {
                match exec(&bed, &id, &["true"], false, false).await {
                    Ok(url) => last = Some(url),
                    Err(error) => {
                        let text = format!("{error:#}");
                        ensure!(text.contains("wait for their clients"), "{text}");
                        let url = last.unwrap_or_default();
                        let (before, _) = used(node)?;
                        // A head without an end.
                        let (mut stream, path) = ws::dial(node, &url)?;
                        let ended = blocking(move || {
                            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\n").as_bytes())?;
                            for number in 0..20_000 {
                                let line = format!("X-{number}: {}\r\n", "y".repeat(1000));
                                if stream.write_all(line.as_bytes()).is_err() {
                                    return Ok(true);
                                }
                            }
                            Ok(false)
                        })
                        .await?;
                        ensure!(ended, "20 MB of headers were read");
                        let (now, _) = used(node)?;
                        ensure!(now < before + 4_000, "{before} kB before, {now} kB after");
                        return Ok(());
                    }
                }
            }
            anyhow::bail!("eleven hundred URLs wait")
        },
    );
}
