//! `rmp`: removes pods.

use std::io::Write;

use anyhow::{Context as _, Result, bail};
use proto::cri::{ListPodSandboxRequest, PodSandboxState, PodSandboxStatusRequest, RemovePodSandboxRequest};

use crate::client::{Node, Runtime, answer};
use crate::{cli, report, stopp};

/// Flags of `rmp`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Force removal of the pod sandbox, disregarding if running
    #[arg(short, long)]
    force: bool,
    /// Remove all pods
    #[arg(short, long)]
    all: bool,
    /// Pods
    #[arg(required_unless_present = "all", value_name = "POD-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let mut runtime = node.runtime().await?;
    let mut ids = args.ids;
    if args.all {
        let pods = answer(
            runtime
                .list_pod_sandbox(node.ask(ListPodSandboxRequest::default()))
                .await,
        )?
        .items;
        ids = pods.into_iter().map(|pod| pod.id).collect();
        if ids.is_empty() {
            report::info("No pods to remove");
        }
    }
    let mut results = Vec::new();
    for id in &ids {
        results.push(remove(node, &mut runtime, id, args.force, out).await);
    }
    cli::all(results)
}

async fn remove(node: &Node, runtime: &mut Runtime, id: &str, force: bool, out: &mut dyn Write) -> Result<()> {
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: false,
    };
    let status = answer(runtime.pod_sandbox_status(node.ask(request)).await)
        .with_context(|| format!("getting sandbox status of pod {id:?}"))?
        .status
        .unwrap_or_default();
    if status.state() == PodSandboxState::SandboxReady {
        if !force {
            bail!("pod sandbox {id:?} is running, please stop it first");
        }
        stopp::stop(node, runtime, id, out)
            .await
            .with_context(|| format!("stopping the pod sandbox {id:?} failed"))?;
    }
    answer(
        runtime
            .remove_pod_sandbox(node.ask(RemovePodSandboxRequest {
                pod_sandbox_id: id.to_owned(),
            }))
            .await,
    )
    .with_context(|| format!("removing the pod sandbox {id:?}"))?;
    writeln!(out, "Removed sandbox {id}")?;
    Ok(())
}
