//! `rm`: removes containers and, unless told otherwise, their log files.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use proto::cri::{ContainerState, ContainerStatusRequest, ListContainersRequest, RemoveContainerRequest};

use crate::client::{Node, Runtime, answer};
use crate::{cli, report, stop};

/// Flags of `rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Force removal of the container, disregarding if running
    #[arg(short, long)]
    force: bool,
    /// Preserve the container log file and its rotations
    #[arg(short, long)]
    keep_logs: bool,
    /// Remove all containers
    #[arg(short, long)]
    all: bool,
    /// Containers
    #[arg(required_unless_present = "all", value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let mut runtime = node.runtime().await?;
    let mut ids = args.ids.clone();
    if args.all {
        let containers = answer(
            runtime
                .list_containers(node.ask(ListContainersRequest::default()))
                .await,
        )?
        .containers;
        ids = containers.into_iter().map(|container| container.id).collect();
        if ids.is_empty() {
            report::info("No containers to remove");
        }
    }
    let mut results = Vec::new();
    for id in &ids {
        results.push(remove(node, &mut runtime, id, &args, out).await);
    }
    cli::all(results)
}

async fn remove(node: &Node, runtime: &mut Runtime, id: &str, args: &Args, out: &mut dyn Write) -> Result<()> {
    let request = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    let status = answer(runtime.container_status(node.ask(request)).await)
        .with_context(|| format!("getting container status {id:?}"))?
        .status
        .unwrap_or_default();
    if status.state() == ContainerState::ContainerRunning {
        if !args.force {
            bail!("container {id:?} is running, please stop it first");
        }
        stop::stop(node, runtime, id, 0, out)
            .await
            .with_context(|| format!("stopping the container {id:?}"))?;
    }
    answer(
        runtime
            .remove_container(node.ask(RemoveContainerRequest {
                container_id: id.to_owned(),
            }))
            .await,
    )
    .with_context(|| format!("removing container {id:?}"))?;
    writeln!(out, "{id}")?;
    if !args.keep_logs && !status.log_path.is_empty() {
        for failure in remove_logs(Path::new(&status.log_path)) {
            report::error(&format!("removing log file for container {id:?} failed: {failure}"));
        }
    }
    Ok(())
}

/// Removes a log file and its rotations (`path.*`); what went wrong.
fn remove_logs(path: &Path) -> Vec<String> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return vec![format!("{} names no file", path.display())];
    };
    let rotation = format!("{name}.");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let rotations = entries.map(|entry| entry.path());
    let rotations = rotations.filter(|p| {
        p.file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| n.starts_with(&rotation))
    });
    let files: Vec<_> = rotations.chain(std::iter::once(path.to_owned())).collect();
    let failures = files.iter().filter_map(|file| {
        std::fs::remove_file(file)
            .err()
            .map(|e| format!("{}: {e}", file.display()))
    });
    failures.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_with_its_rotations_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("bulkhead-ctl-rm-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        for name in ["0.log", "0.log.1", "0.log.20260101.gz", "0.logx", "1.log"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        assert!(remove_logs(&dir.join("0.log")).is_empty());
        let mut left: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["0.logx", "1.log"]);
        assert_eq!(remove_logs(&dir.join("0.log")).len(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
