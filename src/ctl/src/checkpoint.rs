//! `checkpoint`: writes running containers to files. Bulkhead's own server answers that it cannot yet.

use std::io::Write;

use anyhow::{Context as _, Result};
use proto::cri::CheckpointContainerRequest;

use crate::client::{Node, answer};

/// Flags of `checkpoint`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Specify the name of the archive used to export the checkpoint image
    #[arg(short, long)]
    export: String,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let mut runtime = node.runtime().await?;
    for id in &args.ids {
        let request = CheckpointContainerRequest {
            container_id: id.clone(),
            location: args.export.clone(),
            timeout: 0,
        };
        answer(runtime.checkpoint_container(node.ask(request)).await)
            .with_context(|| format!("checkpointing the container {id:?} failed"))?;
        writeln!(out, "{id}")?;
    }
    Ok(())
}
