//! TLS: wanted where other machines can reach the streaming server, and then nothing else is spoken.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::{Bed, Node, Options, netns, places, test_with};

use super::exec;

#[test]
fn beyond_loopback_the_server_does_not_start_without_tls() {
    for listen in ["0.0.0.0:0", "\"[::]:0\"", "10.88.0.1:4443"] {
        let outcome = e2e::run::runtime().and_then(|runtime| {
            runtime.block_on(async {
                Node::start(Options {
                    config: format!("stream:\n  listen: {listen}\n"),
                    ..Options::default()
                })
                .await
            })
        });
        let text = format!("{:#}", outcome.expect_err("it started"));
        assert!(
            text.contains("stream.listen") && text.contains("tls_cert"),
            "{listen}: {text}"
        );
    }
}

/// A directory with a new certificate for 127.0.0.1.
fn certificate() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    let made = Command::new(places::tool("streamclient")?)
        .arg("certificate")
        .arg(directory.path())
        .status()?;
    ensure!(made.success(), "no certificate was made");
    Ok(directory)
}

#[test]
fn beyond_loopback_sessions_are_encrypted() {
    let directory = certificate().expect("make a certificate");
    let path = directory.path().display();
    let options = Options {
        config: format!("stream:\n  listen: 0.0.0.0:0\n  tls_cert: {path}/cert.pem\n  tls_key: {path}/key.pem\n"),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        for protocol in ["spdy", "ws"] {
            let url = exec(&bed, &id, &["echo", "secret"], false, false).await?;
            ensure!(url.starts_with("https://127.0.0.1:"), "{url}");
            let mut command = node.enter(places::tool("streamclient")?);
            command.args(["exec", "--url", &url, "--protocol", protocol]);
            let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await??;
            ensure!(
                output.status.success() && output.stdout == b"secret\n",
                "{protocol}: {output:?}"
            );
        }
        // Without TLS nothing is answered that could be read.
        let url = exec(&bed, &id, &["echo", "secret"], false, false).await?;
        let rest = url.strip_prefix("https://").context("no https")?;
        let (address, path) = rest.split_once('/').context("no path")?;
        let address: SocketAddr = address.parse()?;
        let mut plain = netns::connect(node.init(), address)?;
        plain.set_read_timeout(Some(std::time::Duration::from_secs(15)))?;
        plain.write_all(e2e::ws::request(&format!("/{path}"), super::V5).as_bytes())?;
        let mut answer = Vec::new();
        plain.read_to_end(&mut answer).ok();
        ensure!(!answer.starts_with(b"HTTP"), "{:?}", String::from_utf8_lossy(&answer));
        Ok(())
    });
}

/// What the server answers to a client of TLS 1.2 that knows `suites`: the first byte of it is 22 for a handshake that
/// goes on, 21 for an alert (RFC 5246, 6.2.1).
fn hello(node: &Node, address: SocketAddr, suites: &[u16]) -> Result<u8> {
    let sized = |bytes: &[u8]| {
        let mut all = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        all.extend(bytes);
        all
    };
    let words = |list: &[u16]| sized(&list.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>());
    let extension = |kind: u16, body: &[u8]| [kind.to_be_bytes().to_vec(), sized(body)].concat();
    let extensions = [
        extension(10, &words(&[0x001d, 0x0017])),
        extension(11, &[1, 0]),
        extension(13, &words(&[0x0403, 0x0804, 0x0401])),
    ]
    .concat();
    let hello = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &words(suites),
        &[1, 0],
        &sized(&extensions),
    ]
    .concat();
    let message = [&[1, 0][..], &sized(&hello)].concat();
    let mut socket = netns::connect(node.init(), address)?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(15)))?;
    socket.write_all(&[&[22, 3, 1][..], &sized(&message)].concat())?;
    let mut first = [0];
    socket.read_exact(&mut first)?;
    Ok(first[0])
}

/// ECDHE-ECDSA and ECDHE-RSA, with AES-128-GCM and with AES-256-GCM.
const AES_128: [u16; 2] = [0xc02b, 0xc02f];
const AES_256: [u16; 2] = [0xc02c, 0xc030];
const GOES_ON: u8 = 22;
const ALERT: u8 = 21;

fn address_of(url: &str) -> Result<SocketAddr> {
    let rest = url.strip_prefix("https://").context("no https")?;
    Ok(rest.split('/').next().unwrap_or_default().parse()?)
}

/// What a client with Go's TLS gets.
async fn get(node: &Node, url: &str) -> Result<String> {
    let mut command = node.enter(places::tool("streamclient")?);
    command.args(["get", "--url", url]);
    let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await??;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn the_node_says_which_tls_is_spoken_by_sessions_and_by_the_metrics() {
    let directory = certificate().expect("make a certificate");
    let path = directory.path().display();
    let files = format!("  tls_cert: {path}/cert.pem\n  tls_key: {path}/key.pem\n");
    let of = |more: &str| Options {
        config: format!("stream:\n{files}{more}metrics:\n  listen: 127.0.0.1:9113\n{files}"),
        ..Options::default()
    };
    let metrics: SocketAddr = "127.0.0.1:9113".parse().expect("an address");
    for (more, first, second) in [
        ("", GOES_ON, GOES_ON),
        ("  tls_min_version: '1.3'\n", ALERT, ALERT),
        (
            "  tls_cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n",
            GOES_ON,
            ALERT,
        ),
    ] {
        test_with(of(more), async |node| -> Result<()> {
            let bed = Bed::new(node).await?;
            let id = bed.sleeper("main").await?;
            let url = exec(&bed, &id, &["echo", "secret"], false, false).await?;
            for address in [address_of(&url)?, metrics] {
                let answers = [hello(node, address, &AES_128)?, hello(node, address, &AES_256)?];
                ensure!(answers == [first, second], "{more:?} {address}: {answers:?}");
            }
            let text = get(node, &format!("https://{metrics}/metrics")).await?;
            ensure!(text.contains("bulkhead_build_info{"), "{text}");
            Ok(())
        });
    }
}

#[test]
fn a_cipher_suite_that_is_none_stops_the_start() {
    let directory = certificate().expect("make a certificate");
    let path = directory.path().display();
    let config = format!(
        "stream:\n  tls_cert: {path}/cert.pem\n  tls_key: {path}/key.pem\n  tls_cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n"
    );
    let outcome = e2e::run::runtime().and_then(|runtime| {
        runtime.block_on(Node::start(Options {
            config,
            ..Options::default()
        }))
    });
    let text = format!("{:#}", outcome.expect_err("it started"));
    assert!(
        text.contains("TLS_RSA_WITH_RC4_128_SHA") && text.contains("TLS_AES_256_GCM_SHA384"),
        "{text}"
    );
}
