//! `pods`: lists pods.

use std::io::Write;

use anyhow::Result;
use proto::cri::{ListPodSandboxResponse, PodSandbox, PodSandboxState};

use crate::cli::ListFormat;
use crate::client::Node;
use crate::select::Pods;
use crate::table::{self, Table};
use crate::{human, json, status};

/// Flags of `pods`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Args {
    /// Filter by pod id
    #[arg(long)]
    id: Option<String>,
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
    /// Show verbose info for pods
    #[arg(short, long)]
    verbose: bool,
    /// List only pod IDs
    #[arg(short, long)]
    quiet: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ListFormat,
    /// Show the most recently created pod
    #[arg(short, long)]
    latest: bool,
    /// Show last n recently created pods, 0 for unlimited
    #[arg(short = 'n', long, default_value_t)]
    last: usize,
    /// Show output without truncating the ID
    #[arg(long)]
    no_trunc: bool,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let select = Pods {
        id: args.id.clone(),
        name: args.name.clone(),
        namespace: args.namespace.clone(),
        state: args.state.clone(),
        label: args.label.clone(),
        latest: args.latest,
        last: args.last,
    };
    let items = select.list(node).await?;
    match args.output {
        ListFormat::Json => json::print(out, &ListPodSandboxResponse { items }, "ListPodSandboxResponse"),
        ListFormat::Yaml => json::print_yaml(out, &ListPodSandboxResponse { items }, "ListPodSandboxResponse"),
        ListFormat::Table if args.quiet => items.iter().try_for_each(|pod| Ok(writeln!(out, "{}", pod.id)?)),
        ListFormat::Table if args.verbose => items.iter().try_for_each(|pod| verbose(out, pod)),
        ListFormat::Table => Ok(columns(&items, args.no_trunc).print(out)?),
    }
}

fn columns(pods: &[PodSandbox], whole: bool) -> Table {
    let mut table = Table::new();
    table.row(["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"]);
    for pod in pods {
        let metadata = pod.metadata.clone().unwrap_or_default();
        table.row([
            if whole {
                pod.id.clone()
            } else {
                table::short(&pod.id, "").to_owned()
            },
            human::ago(pod.created_at),
            state(pod.state()).to_owned(),
            metadata.name,
            metadata.namespace,
            metadata.attempt.to_string(),
            handler(pod).to_owned(),
        ]);
    }
    table
}

fn verbose(out: &mut dyn Write, pod: &PodSandbox) -> Result<()> {
    writeln!(out, "ID: {}", pod.id)?;
    if let Some(metadata) = &pod.metadata {
        for (title, value) in [
            ("Name", &metadata.name),
            ("UID", &metadata.uid),
            ("Namespace", &metadata.namespace),
        ] {
            if !value.is_empty() {
                writeln!(out, "{title}: {value}")?;
            }
        }
        if metadata.attempt != 0 {
            writeln!(out, "Attempt: {}", metadata.attempt)?;
        }
    }
    writeln!(out, "Status: {}", state(pod.state()))?;
    writeln!(out, "Created: {}", human::go_time(pod.created_at))?;
    status::pairs(out, "Labels", &pod.labels)?;
    status::pairs(out, "Annotations", &pod.annotations)?;
    writeln!(out, "Runtime: {}\n", handler(pod))?;
    Ok(())
}

fn state(state: PodSandboxState) -> &'static str {
    match state {
        PodSandboxState::SandboxReady => "Ready",
        PodSandboxState::SandboxNotready => "NotReady",
    }
}

fn handler(pod: &PodSandbox) -> &str {
    if pod.runtime_handler.is_empty() {
        "(default)"
    } else {
        &pod.runtime_handler
    }
}
