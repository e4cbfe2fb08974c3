//! Runs critest against a server of this tree: `conformance CRITEST [argument of critest…]`.
//!
//! The server is a node as the suites use it (namespaces of its own, leak check at the
//! end), with a registry of the images that critest names (`images`), found by rules for
//! the three registries of Kubernetes. critest names one image by a digest that nobody can make
//! again; the copy of critest that is run names the digest of the image made here instead,
//! which is a change of 64 characters and said aloud.
#![expect(clippy::print_stdout, reason = "a command line tool")]

mod images;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::registry::{Auth, Registry};
use e2e::{Node, Options, run};

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let critest = PathBuf::from(arguments.next().context("usage: conformance CRITEST [argument…]")?);
    let more: Vec<String> = arguments.collect();
    let report = run::runtime()?.block_on(conform(&critest, &more))?;
    report.print();
    println!("{}", report.counts());
    Ok(if report.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn conform(critest: &Path, more: &[String]) -> Result<report::Report> {
    let options = Options {
        registry: false,
        quiet: true,
        ..Options::default()
    };
    let mut node = Node::prepare(options)?;
    let storage = node.dir().join("images");
    let nginx = std::env::var_os("BULKHEAD_NGINX").map(PathBuf::from);
    let digest = images::make(&storage, nginx.as_deref())?;
    let registry = Registry::start(&node, 5000, Auth::None, &storage)?;
    for host in ["registry.k8s.io", "k8s.gcr.io", "gcr.io"] {
        node.write_hosts(
            host,
            "[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        )?;
    }
    let program = node.dir().join("critest");
    with_digest(critest, &program, &digest)?;
    node.start_daemon().await?;

    let (file, output) = (node.dir().join("report.json"), places_log()?);
    let endpoint = format!("unix://{}", node.socket().display());
    let log =
        fs::File::create_new(&output).or_else(|_| fs::File::options().write(true).truncate(true).open(&output))?;
    let mut command = node.enter(&program);
    command
        .args([
            "-runtime-endpoint",
            &endpoint,
            "-image-endpoint",
            &endpoint,
            "-ginkgo.no-color",
        ])
        .arg(format!("-ginkgo.json-report={}", file.display()))
        .args(more)
        .current_dir(node.dir())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    println!("critest's own output: {}", output.display());
    // The outcome is in the report; critest's exit code says no more.
    let status = command.status().context("run critest")?;
    let report = report::Report::read(&file).with_context(|| format!("critest ended with {status}"))?;
    fs::copy(node.log_path(), output.with_extension("server.log"))?;
    registry.stop()?;
    node.finish().await.context("after critest")?;
    Ok(report)
}

fn places_log() -> Result<PathBuf> {
    let directory = e2e::places::cache().join("test");
    fs::create_dir_all(&directory)?;
    Ok(directory.join("critest.log"))
}

/// Copies critest, the digest of its one pinned image replaced.
fn with_digest(from: &Path, to: &Path, digest: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    const NAME: &[u8] = b"/test-image-digest@sha256:";
    let mut bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    let places: Vec<usize> = bytes
        .windows(NAME.len())
        .enumerate()
        // Not the one for Windows, whose name ends alike.
        .filter(|(_, window)| *window == NAME)
        .map(|(at, _)| at + NAME.len())
        .collect();
    ensure!(
        !places.is_empty(),
        "{} names no test-image-digest: is it critest?",
        from.display()
    );
    let hex = digest.trim_start_matches("sha256:").as_bytes();
    for at in places {
        let there = bytes.get_mut(at..at + hex.len()).context("a digest is cut short")?;
        println!(
            "test-image-digest: critest wants {}…, which nobody can make again; it is given {}…",
            String::from_utf8_lossy(&there[..12]),
            String::from_utf8_lossy(&hex[..12])
        );
        there.copy_from_slice(hex);
    }
    fs::write(to, bytes)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
