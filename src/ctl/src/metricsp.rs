//! `metricsp`: the metrics of pods and their containers.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result};
use proto::cri::ListPodSandboxMetricsRequest;

use crate::client::{Node, answer};
use crate::json;
use crate::metricdescs::Format;

/// Flags of `metricsp`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Watch pod metrics
    #[arg(short, long)]
    watch: bool,
}

pub(crate) async fn run(args: &Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let mut runtime = node.runtime().await?;
    loop {
        let request = node.ask(ListPodSandboxMetricsRequest {});
        let all = answer(runtime.list_pod_sandbox_metrics(request).await).context("list pod sandbox metrics")?;
        match args.output {
            Format::Json => json::print(out, &all, "ListPodSandboxMetricsResponse")?,
            Format::Yaml => json::print_yaml(out, &all, "ListPodSandboxMetricsResponse")?,
        }
        out.flush()?;
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
