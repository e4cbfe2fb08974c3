//! `metricdescs`: which metrics the server has of pods and containers.

use std::io::Write;

use anyhow::{Context as _, Result};
use proto::cri::ListMetricDescriptorsRequest;

use crate::client::{Node, answer};
use crate::json;

/// How metrics are printed: there is no table of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Indented JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
}

/// Flags of `metricdescs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(args: &Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let request = node.ask(ListMetricDescriptorsRequest {});
    let all =
        answer(node.runtime().await?.list_metric_descriptors(request).await).context("list metric descriptors")?;
    match args.output {
        Format::Json => json::print(out, &all, "ListMetricDescriptorsResponse"),
        Format::Yaml => json::print_yaml(out, &all, "ListMetricDescriptorsResponse"),
    }
}
