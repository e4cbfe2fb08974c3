//! `run`: runs a pod and, in it, a container.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::client::Node;
use crate::create::{self, PullArgs};
use crate::{runp, start};

/// Flags of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pull: PullArgs,
    /// Runtime handler to use
    #[arg(short, long, default_value = "")]
    runtime: String,
    /// container-config.[json|yaml]
    container_config: PathBuf,
    /// pod-config.[json|yaml]
    pod_config: PathBuf,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let pod = runp::load(&args.pod_config).context("load podSandboxConfig")?;
    let container = create::load(&args.container_config)?;
    let pod_id = runp::start(node, pod.clone(), args.runtime, None)
        .await
        .context("run pod sandbox")?;
    let wanted = args.pull.wanted(node.settings.pull_on_run);
    let id = create::create(node, &args.pull, wanted, pod_id, (container, pod))
        .await
        .context("creating container failed")?;
    start::start(node, &mut node.runtime().await?, &id, out)
        .await
        .with_context(|| format!("starting the container {id:?}"))
}
