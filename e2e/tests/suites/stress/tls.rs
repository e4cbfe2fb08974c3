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
