//! The kernel alone: what `e2e/kernel-alone` takes for the same namespaces, cgroups, mounts and exec.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use e2e::catalog::BUSYBOX;
use e2e::{Node, places};

use super::measure::{Life, life};
use super::{Alone, Scale};

/// What `e2e/kernel-alone` and Bulkhead take, by turns on one node; `beside` how many pods, for the rows' names.
pub(crate) async fn alone(node: &Node, scale: Scale, beside: Option<usize>) -> Result<Vec<Alone>> {
    const BLOCK: usize = 6;
    let cri = node.cri();
    cri.pull(BUSYBOX).await?;
    let rootfs = root(node)?;
    let mut kernel: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let mut ours: Vec<Life> = Vec::new();
    for _ in 0..scale.samples.div_ceil(BLOCK) {
        for (up, down) in rounds(node, &rootfs, BLOCK)? {
            kernel[0].push(up);
            kernel[1].push(down);
        }
        for _ in 0..BLOCK {
            ours.push(life(node, &cri).await?);
        }
    }
    let [up, down] = kernel;
    let suffix = beside.map(|pods| format!("_{pods}")).unwrap_or_default();
    Ok(vec![
        Alone::new(
            format!("kernel_alone_up{suffix}"),
            up,
            ours.iter().map(Life::up).collect(),
        ),
        Alone::new(
            format!("kernel_alone_down{suffix}"),
            down,
            ours.iter().map(|life| life.down).collect(),
        ),
    ])
}

/// A root file system with one static program.
fn root(node: &Node) -> Result<std::path::PathBuf> {
    let rootfs = node.dir().join("alone-root");
    for name in ["bin", "proc", "dev", "sys"] {
        fs::create_dir_all(rootfs.join(name))?;
    }
    fs::copy("/bin/busybox", rootfs.join("bin/sleep")).context("copy busybox (busybox-static)")?;
    Ok(rootfs)
}

/// The hierarchies in which the server has its cgroup: what it uses, this uses too.
fn hierarchies(node: &Node) -> Result<Vec<String>> {
    let base = Path::new("/sys/fs/cgroup");
    if base.join("cgroup.controllers").exists() {
        return Ok(vec![base.display().to_string()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        // cpu,cpuacct and its like are linked under each of their names.
        if !path.is_symlink() && path.join(node.name()).is_dir() {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

fn rounds(node: &Node, rootfs: &Path, count: usize) -> Result<Vec<(f64, f64)>> {
    let output = node
        .enter(places::tool("kernel-alone")?)
        .arg(count.to_string())
        .arg(rootfs)
        .arg(node.dir().join("alone"))
        .arg(format!("{}/alone", node.name()))
        .args(hierarchies(node)?)
        .output()
        .context("run kernel-alone")?;
    anyhow::ensure!(
        output.status.success(),
        "kernel-alone failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .map(|line| {
            let (up, down) = line.split_once(' ').context("kernel-alone printed something else")?;
            Ok((up.parse::<f64>()? / 1000.0, down.parse::<f64>()? / 1000.0))
        })
        .collect()
}
