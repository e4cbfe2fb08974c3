//! `stopp`: stops pods.

use std::io::Write;

use anyhow::{Context as _, Result};
use proto::cri::StopPodSandboxRequest;

use crate::client::{Node, Runtime, answer};

/// Flags of `stopp`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pods
    #[arg(required = true, value_name = "POD-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let mut runtime = node.runtime().await?;
    for id in &args.ids {
        stop(node, &mut runtime, id, out)
            .await
            .with_context(|| format!("stopping the pod sandbox {id:?}"))?;
    }
    Ok(())
}

/// Stops one pod and says so.
pub(crate) async fn stop(node: &Node, runtime: &mut Runtime, id: &str, out: &mut dyn Write) -> Result<()> {
    answer(
        runtime
            .stop_pod_sandbox(node.ask(StopPodSandboxRequest {
                pod_sandbox_id: id.to_owned(),
            }))
            .await,
    )?;
    writeln!(out, "Stopped sandbox {id}")?;
    Ok(())
}
