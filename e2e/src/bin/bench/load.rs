//! Throughput: pods with ten callers, pulls, logs.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::catalog::{self, BUSYBOX};
use e2e::config::pod_in_cgroup;
use e2e::image::{Compression, Storage};
use e2e::registry::{Auth, Registry};
use e2e::{Node, container, places};
use proto::cri as v1;

use super::{Pair, Row, Scale, many, row};

/// Pods up and down each second, ten callers.
pub(crate) async fn pods_per_second(pair: &Pair, scale: Scale) -> Result<Row> {
    let mut rates: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for node in pair.both() {
        node.cri().pull(BUSYBOX).await?;
    }
    for _ in 0..scale.rounds {
        for (node, rates) in pair.both().into_iter().zip(&mut rates) {
            rates.push(window(node, Duration::from_secs(scale.window)).await?);
        }
    }
    Ok(row("pods_per_second", "pods/s", rates))
}

async fn window(node: &Node, limit: Duration) -> Result<f64> {
    const CALLERS: usize = 10;
    let begin = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let cri = node.cri();
        let template = pod_in_cgroup(node, &format!("caller-{caller}"));
        callers.spawn(async move {
            let mut done = 0_u32;
            while begin.elapsed() < limit {
                let mut config = template.clone();
                config.metadata.get_or_insert_default().attempt = done;
                let id = cri.run_pod(&config).await?;
                let main = container("main", BUSYBOX, &["sleep", "100000"]);
                let container = cri.create(&id, &main, &config).await?;
                cri.start(&container).await?;
                cri.stop(&container, 0).await?;
                cri.remove(&container).await?;
                cri.stop_pod(&id).await?;
                cri.remove_pod(&id).await?;
                done += 1;
            }
            Ok::<u32, tonic::Status>(done)
        });
    }
    let mut done = 0;
    while let Some(caller) = callers.join_next().await {
        done += caller??;
    }
    Ok(f64::from(done) / begin.elapsed().as_secs_f64())
}

/// The images of the pull rows, made once for a machine.
fn images() -> Result<PathBuf> {
    const LAYERS: usize = 6;
    // Together 1 GB unpacked.
    const BYTES: usize = (1000 << 20) / LAYERS;
    let path = catalog::bench_directory(&places::cache().join("e2e"));
    if !path.exists() {
        let parent = path.parent().context("no parent")?;
        fs::create_dir_all(parent)?;
        let temporary = tempfile::Builder::new().prefix("making-").tempdir_in(parent)?;
        let storage = Storage::new(temporary.path());
        for (tag, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
            catalog::big(&storage, "big", tag, compression, (LAYERS, BYTES))?;
        }
        fs::rename(temporary.keep(), &path).context("rename the image directory")?;
    }
    Ok(path)
}

/// A pull of 1 GB in 6 layers, gzip and zstd.
pub(crate) async fn pulls(pair: &Pair, scale: Scale, only: &str) -> Result<Vec<Row>> {
    const PORT: u16 = 5007;
    let images = images()?;
    let mut registries = Vec::new();
    for node in pair.both() {
        registries.push(Registry::start(node, PORT, Auth::None, &images)?);
        let host = format!("127.0.0.1:{PORT}");
        node.write_hosts(
            &host,
            &format!("server = \"http://{host}\"\n[host.\"http://{host}\"]\n"),
        )?;
    }
    let mut rows = Vec::new();
    let mut peaks: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let mut empty = [0; 2];
    for (empty, node) in empty.iter_mut().zip(pair.both()) {
        *empty = stored(node)?;
    }
    for (name, tag) in [("pull_gzip", "gzip"), ("pull_zstd", "zstd")] {
        if !name.starts_with(only) && only != "pull_peak" {
            continue;
        }
        let image = format!("127.0.0.1:{PORT}/big:{tag}");
        let mut times: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        // The first of each also brings the registry's files into memory.
        for round in 0..=scale.rounds {
            for (at, node) in pair.both().into_iter().enumerate() {
                let times = &mut times[at];
                let cri = node.cri();
                // What one of them left to be written would be the other's disk being busy.
                rustix::fs::sync();
                forget_peak(node)?;
                let begin = Instant::now();
                cri.pull(&image).await.with_context(|| format!("pull {image}"))?;
                let took = begin.elapsed().as_secs_f64();
                cri.remove_image(&image).await?;
                if round > 0 {
                    times.push(took);
                    peaks[at].push(many::of_status(node, "VmHWM:")?);
                }
                removed(node, empty[at]).await?;
            }
        }
        rows.push(row(name, "s", times));
    }
    rows.push(row("pull_peak", "MB", peaks));
    for registry in registries {
        registry.stop()?;
    }
    Ok(rows)
}

/// From now on the server's peak counts anew (proc_pid_clear_refs(5)).
fn forget_peak(node: &Node) -> Result<()> {
    let path = format!("/proc/{}/clear_refs", node.daemon_pid().context("no server")?);
    fs::write(&path, "5").with_context(|| format!("write {path}"))
}

/// Waits until the files of a removed image are gone: the peer removes them later, and the disk would be busy with it.
async fn removed(node: &Node, empty: u64) -> Result<()> {
    // Databases and logs grow a little.
    const SLACK: u64 = 8 << 10;
    e2e::wait::until("the image's files are removed", Duration::from_secs(120), async || {
        Ok((stored(node)? < empty + SLACK).then_some(()))
    })
    .await
}

/// Kilobytes on disk of all that a node's server keeps.
fn stored(node: &Node) -> Result<u64> {
    let text = node.sh(&format!("du -sk {} | cut -f1", node.root_dir().display()))?;
    text.trim().parse().with_context(|| format!("du says {text:?}"))
}

/// Whether a line of a log carries one line of 100 bytes: `time stdout F text`.
fn is_whole(line: &[u8]) -> bool {
    let text = line.splitn(4, |byte| *byte == b' ').collect::<Vec<_>>();
    matches!(text.as_slice(), [_, b"stdout", b"F", text] if text.len() == 99)
}

/// MB a second from a program's standard output into its log, in lines of 100 bytes.
pub(crate) async fn logs(pair: &Pair, scale: Scale) -> Result<Row> {
    let mut rates: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let bytes = scale.log << 20;
    for node in pair.both() {
        node.cri().pull(BUSYBOX).await?;
        let line = format!("{:.<99}\n", "all is well on the lower deck ");
        fs::write(node.dir().join("lines"), line.repeat(bytes / line.len()))?;
    }
    for round in 0..scale.rounds + 1 {
        for (node, rates) in pair.both().into_iter().zip(&mut rates) {
            let cri = node.cri();
            let config = pod_in_cgroup(node, "logs");
            let id = cri.run_pod(&config).await?;
            let mut main = container("main", BUSYBOX, &["cat", "/lines"]);
            let host_path = node.dir().join("lines").to_string_lossy().into_owned();
            main.mounts.push(v1::Mount {
                container_path: "/lines".into(),
                host_path,
                readonly: true,
                ..Default::default()
            });
            let container = cri.create(&id, &main, &config).await?;
            let begin = Instant::now();
            cri.start(&container).await?;
            let status = cri.exited(&container).await?;
            // Of the server's own clock where it is finer than this client's polling.
            let took = Duration::from_nanos(u64::try_from(status.finished_at - status.started_at).unwrap_or_default())
                .min(begin.elapsed());
            cri.stop_pod(&id).await?;
            cri.remove_pod(&id).await?;
            let log = e2e::logs::path(&config, &main);
            anyhow::ensure!(fs::metadata(&log)?.len() > bytes as u64, "the log is too short");
            // A line of the program is one line of the log, marked as whole.
            let text = fs::read(&log)?;
            let whole = text.split(|byte| *byte == b'\n').filter(|line| is_whole(line)).count();
            anyhow::ensure!(whole == bytes / 100, "{whole} whole lines of {}", bytes / 100);
            fs::remove_file(log)?;
            if round > 0 {
                rates.push(scale.log as f64 / took.as_secs_f64());
            }
        }
    }
    Ok(row("logs", "MB/s", rates))
}
