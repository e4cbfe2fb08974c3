//! No network configuration; plugins that fail, hang, or print rubbish.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::bed::refused_any;
use e2e::engine::conflist;
use e2e::{Bed, Node, Options, container, pod, test, test_with};
use tonic::Code;

const CODES: [Code; 5] = [
    Code::Unknown,
    Code::Unavailable,
    Code::FailedPrecondition,
    Code::Internal,
    Code::DeadlineExceeded,
];

/// Puts a shell script in place of a plugin and a network that uses it after the bridge.
fn script(node: &Node, text: &str) -> Result<()> {
    let path = node.bin_dir().join("scripted");
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let list = conflist(node).replace("\"portmap\"", "\"scripted\"");
    fs::write(node.conf_dir().join("10-e2e.conflist"), list)?;
    Ok(())
}

/// A plugin that answers VERSION, and DEL well.
const WELL: &str = r#"case $CNI_COMMAND in VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'; exit 0;; DEL|GC|STATUS) cat >/dev/null; exit 0;; esac"#;

/// How many addresses are given out.
fn leases(node: &Node) -> usize {
    let entries = fs::read_dir(node.dir().join("ipam/e2e"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("10."))
        .count()
}

/// The scripted network is used only after the server has read it.
async fn fails(node: &mut Node, words: &[&str]) -> Result<()> {
    node.restart().await?;
    refused_any(node.cri().run_pod(&pod(node, "pod")).await, &CODES, words)?;
    ensure!(node.cri().pods(None).await?.is_empty(), "a pod stayed");
    // The bridge had been added before; the address must be given back at once.
    ensure!(leases(node) == 0 || !node.ours(), "an address stayed leased");
    // And when the network is whole again, so are the pods.
    fs::write(node.conf_dir().join("10-e2e.conflist"), conflist(node))?;
    node.restart().await?;
    Bed::new(node).await.map(drop)
}

#[test]
fn no_network_configuration() {
    test_with(
        Options {
            network: false,
            ..Options::default()
        },
        async |node| -> Result<()> {
            refused_any(node.cri().run_pod(&pod(node, "pod")).await, &CODES, &["cni"])?;
            ensure!(node.cri().pods(None).await?.is_empty(), "a pod stayed");
            // A pod on the host's network needs none.
            let mut config = pod(node, "host");
            config.hostname.clear();
            e2e::config::pod_namespaces(&mut config).network = proto::cri::NamespaceMode::Node.into();
            node.cri().run_pod(&config).await?;
            Ok(())
        },
    );
}

#[test]
fn a_plugin_that_fails() {
    test(async |node| -> Result<()> {
        script(
            node,
            &format!(
                r#"{WELL}; cat >/dev/null; echo '{{"cniVersion":"1.0.0","code":101,"msg":"no more ropes","details":"ask the bosun"}}'; exit 1"#
            ),
        )?;
        fails(node, &["no more ropes"]).await
    });
}

#[test]
fn a_plugin_that_prints_rubbish() {
    test(async |node| -> Result<()> {
        script(
            node,
            &format!("{WELL}; cat >/dev/null; echo 'Segmentation fault (core dumped)'; exit 0"),
        )?;
        fails(node, &["scripted"])
            .await
            .or_else(|error| if node.ours() { Err(error) } else { Ok(()) })
    });
}

#[test]
fn a_plugin_that_is_missing() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            // containerd gives nothing back here.
            return Ok(());
        }
        script(node, WELL)?;
        let plugin = node.bin_dir().join("scripted");
        let hidden = node.dir().join("scripted");
        fs::rename(&plugin, &hidden)?;
        node.restart().await?;
        refused_any(node.cri().run_pod(&pod(node, "pod")).await, &CODES, &["scripted"])?;
        ensure!(node.cri().pods(None).await?.is_empty(), "a pod stayed");
        // No plugin was asked, since what the first gives only all of them can give back.
        ensure!(leases(node) == 0, "an address stayed leased");
        ensure!(!node.sh("ip -o link show type veth")?.contains("veth"), "a veth stayed");
        fs::rename(&hidden, &plugin)?;
        Ok(())
    });
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    test_with(
        Options {
            config: "cni:\n  timeout_seconds: 2\n".into(),
            ..Options::default()
        },
        async |node| -> Result<()> {
            if !node.ours() {
                return Ok(());
            }
            script(node, &format!("{WELL}; sleep 23456 & wait"))?;
            let begin = Instant::now();
            fails(node, &["scripted"]).await?;
            ensure!(begin.elapsed() < Duration::from_secs(20), "took {:?}", begin.elapsed());
            let left: Vec<_> = e2e::leak::living(node.init())
                .into_iter()
                .filter(|process| process.command.contains("23456"))
                .collect();
            ensure!(left.is_empty(), "still alive: {left:?}");
            Ok(())
        },
    );
}

#[test]
fn an_address_range_that_is_used_up() {
    test(async |node| -> Result<()> {
        fs::write(
            node.conf_dir().join("10-e2e.conflist"),
            conflist(node).replace("10.88.0.0/16", "10.88.9.0/30"),
        )?;
        node.restart().await?;
        let cri = node.cri();
        let one = pod(node, "one");
        let id = cri.run_pod(&one).await?;
        refused_any(
            cri.run_pod(&pod(node, "two")).await,
            &[
                Code::Unknown,
                Code::ResourceExhausted,
                Code::Internal,
                Code::Unavailable,
                Code::FailedPrecondition,
            ],
            &["address"],
        )
        .or_else(|error| {
            if format!("{error}").contains("no IP addresses") {
                Ok(())
            } else {
                Err(error)
            }
        })?;
        cri.stop_pod(&id).await?;
        cri.run_pod(&pod(node, "three")).await?;
        Ok(())
    });
}

#[test]
fn e6_a_pod_whose_namespace_is_gone_can_be_removed() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            // The reference portmap leaves a rule behind here.
            return Ok(());
        }
        let bed = Bed::new(node).await?;
        bed.run(&container("main", e2e::catalog::BUSYBOX, &["sleep", "100000"]))
            .await?;
        node.sh("for file in /run/netns/*; do umount $file && rm $file; done")?;
        bed.cri.stop_pod(&bed.pod).await?;
        bed.cri.remove_pod(&bed.pod).await?;
        Ok(())
    });
}
