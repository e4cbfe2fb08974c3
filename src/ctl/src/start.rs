//! `start`: starts created containers.

use std::io::Write;

use anyhow::{Context as _, Result};
use proto::cri::StartContainerRequest;

use crate::client::{Node, Runtime, answer};

/// Flags of `start`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let mut runtime = node.runtime().await?;
    for id in &args.ids {
        start(node, &mut runtime, id, out)
            .await
            .with_context(|| format!("starting the container {id:?}"))?;
    }
    Ok(())
}

/// Starts one container and prints its id.
pub(crate) async fn start(node: &Node, runtime: &mut Runtime, id: &str, out: &mut dyn Write) -> Result<()> {
    answer(
        runtime
            .start_container(node.ask(StartContainerRequest {
                container_id: id.to_owned(),
            }))
            .await,
    )?;
    writeln!(out, "{id}")?;
    Ok(())
}
