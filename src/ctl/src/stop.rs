//! `stop`: stops running containers.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result};
use proto::cri::StopContainerRequest;

use crate::client::{Node, Runtime, answer};
use crate::select::Containers;

/// Flags of `stop`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds to wait to kill the container after a graceful stop is requested
    #[arg(short, long, default_value_t)]
    timeout: u32,
    /// Stop all running containers
    #[arg(short, long, conflicts_with = "ids")]
    all: bool,
    /// Containers
    #[arg(required_unless_present = "all", value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let mut ids = args.ids;
    if args.all {
        let running = Containers::default().list(node).await.context("listing containers")?;
        ids = running.into_iter().map(|container| container.id).collect();
        if ids.is_empty() {
            writeln!(out, "No running containers found.")?;
        }
    }
    let mut runtime = node.runtime().await?;
    for id in &ids {
        stop(node, &mut runtime, id, args.timeout, out)
            .await
            .with_context(|| format!("stopping the container {id:?}"))?;
    }
    Ok(())
}

/// Stops one container and prints its id.
pub(crate) async fn stop(node: &Node, runtime: &mut Runtime, id: &str, grace: u32, out: &mut dyn Write) -> Result<()> {
    let request = StopContainerRequest {
        container_id: id.to_owned(),
        timeout: i64::from(grace),
    };
    // The grace is on top of the time that the answer may take.
    let limit = node
        .settings
        .request_timeout
        .map(|limit| limit + Duration::from_secs(u64::from(grace)));
    answer(runtime.stop_container(node.ask_within(request, limit)).await)?;
    writeln!(out, "{id}")?;
    Ok(())
}
