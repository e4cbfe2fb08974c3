//! `inspectp`: the status of pods.

use std::io::Write;

use anyhow::{Context as _, Result, bail};
use proto::cri::{PodSandboxStatusRequest, PodSandboxStatusResponse};
use serde_json::Value;

use crate::client::{Node, answer};
use crate::select::Pods;
use crate::status::{self, Format};
use crate::{human, json};

/// Flags of `inspectp`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Do not show verbose information
    #[arg(short, long)]
    quiet: bool,
    /// Template for go-template
    #[arg(long, hide = true)]
    template: Option<String>,
    /// Filter by pod name regular expression pattern
    #[arg(long)]
    name: Option<String>,
    /// Filter by pod namespace regular expression pattern
    #[arg(long)]
    namespace: Option<String>,
    /// Filter by pod state
    #[arg(short, long)]
    state: Option<String>,
    /// Filter by key=value label
    #[arg(long)]
    label: Vec<String>,
    /// Show the most recently created pod
    #[arg(short, long)]
    latest: bool,
    /// Show last n recently created pods, 0 for unlimited
    #[arg(short = 'n', long, default_value_t)]
    last: usize,
    /// Pods
    #[arg(value_name = "POD-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let format = args.output.check()?;
    let mut ids = args.ids;
    if ids.is_empty() {
        let select = Pods {
            id: None,
            name: args.name,
            namespace: args.namespace,
            state: args.state,
            label: args.label,
            latest: args.latest,
            last: args.last,
        };
        ids = select
            .list(node)
            .await
            .context("listing pod sandboxes")?
            .into_iter()
            .map(|pod| pod.id)
            .collect();
    }
    if ids.is_empty() {
        bail!("No IDs provided or nothing found per filter");
    }
    let mut runtime = node.runtime().await?;
    let mut entries = Vec::new();
    for id in ids {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id,
            verbose: !args.quiet,
        };
        let answer = answer(runtime.pod_sandbox_status(node.ask(request)).await).context("get pod sandbox status")?;
        if format == Format::Table {
            table(out, &answer, !args.quiet)?;
            continue;
        }
        let status = answer.status.unwrap_or_default();
        let mut value = json::value(&status, "PodSandboxStatus")?;
        value["createdAt"] = Value::String(human::rfc3339(status.created_at));
        entries.push(status::entry(value, &answer.info)?);
    }
    status::print(out, entries, format)
}

fn table(out: &mut dyn Write, answer: &PodSandboxStatusResponse, verbose: bool) -> Result<()> {
    let status = answer.status.clone().unwrap_or_default();
    writeln!(out, "ID: {}", status.id)?;
    if let Some(metadata) = &status.metadata {
        for (title, value) in [
            ("Name", &metadata.name),
            ("UID", &metadata.uid),
            ("Namespace", &metadata.namespace),
        ] {
            if !value.is_empty() {
                writeln!(out, "{title}: {value}")?;
            }
        }
        writeln!(out, "Attempt: {}", metadata.attempt)?;
    }
    writeln!(out, "Status: {}", status.state().as_str_name())?;
    writeln!(out, "Created: {}", human::go_time(status.created_at))?;
    if let Some(network) = &status.network {
        writeln!(out, "IP Addresses: {}", network.ip)?;
        for ip in &network.additional_ips {
            writeln!(out, "Additional IP: {}", ip.ip)?;
        }
    }
    status::pairs(out, "Labels", &status.labels)?;
    status::pairs(out, "Annotations", &status.annotations)?;
    if verbose {
        status::info_line(out, &answer.info)?;
    }
    Ok(())
}
