//! What the kubelet relies on, sentence by sentence (docs/kubelet.md); the rest of these tests
//! stands with its subject in the other suites, `e1_…` to `e9_…` by the same rule.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use e2e::Node;
use e2e::engine::conflist;
use e2e::fake::{Fake, Fault};
use e2e::image::{Compression, Flavor, Image, Layer, Storage};
use e2e::tar::Tar;

mod e1;
mod e2;
mod e3;
mod e4;
mod e5;
mod e6;
mod e7;
mod e8;
mod e9;

/// A network whose first plugin runs `line` of shell before it does the bridge's work; `version` of CNI.
async fn wrapped(node: &mut Node, version: &str, line: &str) -> Result<()> {
    let path = node.bin_dir().join("wrapped");
    let bridge = node.bin_dir().join("bridge");
    fs::write(&path, format!("#!/bin/sh\n{line}\nexec {}\n", bridge.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let list = conflist(node)
        .replace(r#""type":"bridge""#, r#""type":"wrapped""#)
        .replace(r#""cniVersion":"1.0.0""#, &format!(r#""cniVersion":"{version}""#));
    ensure!(
        list.contains("wrapped") && list.contains(version),
        "not replaced: {list}"
    );
    node.write_network("10-e2e.conflist", &list)?;
    node.restart().await?;
    Ok(())
}

/// A registry of one image: busybox's shell with this configuration. Its reference.
fn image(node: &Node, config: serde_json::Value) -> Result<(Fake, String)> {
    let mut tar = Tar::new();
    tar.dir("bin/")
        .dir("etc/")
        .dir("data/")
        .file("data/from-image", 0o644, b"from the image\n");
    tar.file("bin/busybox", 0o755, &fs::read("/bin/busybox")?);
    for applet in ["sh", "cat", "id", "ls", "touch", "grep"] {
        tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    tar.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    let storage = Storage::new(&node.dir().join("images"));
    let image = Image {
        flavor: Flavor::Oci,
        layers: vec![Layer::new(&tar.finish(), Compression::Gzip)?],
        config,
    };
    storage.put("own", "1", &image)?;
    let fake = Fake::start(node, storage, Fault::None)?;
    let name = format!("{}/own:1", fake.host());
    Ok((fake, name))
}

/// Processes in the node whose command line holds `needle`.
fn processes(node: &Node, needle: &str) -> Vec<String> {
    e2e::leak::living(node.init())
        .into_iter()
        .filter(|process| process.command.contains(needle))
        .map(|process| format!("{} {}", process.pid, process.command))
        .collect()
}
