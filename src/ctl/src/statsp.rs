//! `statsp`: what pods use.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result};
use proto::cri::{ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats, PodSandboxStatsFilter};

use crate::cli::ListFormat;
use crate::client::{Node, Runtime, answer};
use crate::table::{self, Table};
use crate::{human, json, select, stats};

/// Flags of `statsp`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Filter by pod id
    #[arg(long)]
    id: Option<String>,
    /// Filter by key=value label
    #[arg(long)]
    label: Vec<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ListFormat,
    /// Sample duration for CPU usage in seconds
    #[arg(short, long, default_value_t = 1)]
    seconds: u64,
    /// Watch resources
    #[arg(short, long)]
    watch: bool,
    /// Pod
    #[arg(value_name = "ID", default_value = "")]
    pod: String,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let id = args.id.clone().unwrap_or_else(|| args.pod.clone());
    let filter = PodSandboxStatsFilter {
        id,
        label_selector: select::labels(&args.label)?,
    };
    let mut runtime = node.runtime().await?;
    loop {
        show(&args, node, &mut runtime, &filter, out).await?;
        out.flush()?;
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn list(node: &Node, runtime: &mut Runtime, filter: &PodSandboxStatsFilter) -> Result<Vec<PodSandboxStats>> {
    let request = node.ask(ListPodSandboxStatsRequest {
        filter: Some(filter.clone()),
    });
    let mut stats = answer(runtime.list_pod_sandbox_stats(request).await)
        .context("list pod sandbox stats")?
        .stats;
    stats.sort_by(|a, b| id(a).cmp(id(b)));
    Ok(stats)
}

async fn show(
    args: &Args,
    node: &Node,
    runtime: &mut Runtime,
    filter: &PodSandboxStatsFilter,
    out: &mut dyn Write,
) -> Result<()> {
    let stats = list(node, runtime, filter).await?;
    match args.output {
        ListFormat::Json => {
            return json::print(
                out,
                &ListPodSandboxStatsResponse { stats },
                "ListPodSandboxStatsResponse",
            );
        }
        ListFormat::Yaml => {
            return json::print_yaml(
                out,
                &ListPodSandboxStatsResponse { stats },
                "ListPodSandboxStatsResponse",
            );
        }
        ListFormat::Table => {}
    }
    let before: HashMap<String, PodSandboxStats> =
        stats.into_iter().map(|stats| (id(&stats).to_owned(), stats)).collect();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let mut table = Table::new();
    table.row(["POD", "POD ID", "CPU %", "MEM"]);
    for now in list(node, runtime, filter).await? {
        let Some(before) = before.get(id(&now)) else { continue };
        let (used, at, memory) = usage(&now);
        if used == 0 && memory == 0 {
            continue;
        }
        let (used_before, since, _) = usage(before);
        let metadata = now.attributes.clone().unwrap_or_default().metadata.unwrap_or_default();
        let cpu = stats::percent((used_before, since), (used, at))?;
        table.row([
            metadata.name,
            table::short(id(&now), "").to_owned(),
            cpu,
            human::size(memory, 4),
        ]);
    }
    if args.watch {
        // Clear the screen, go to its first line.
        write!(out, "\x1b[2J\x1b[H")?;
    }
    Ok(table.print(out)?)
}

fn id(stats: &PodSandboxStats) -> &str {
    stats
        .attributes
        .as_ref()
        .map_or("", |attributes| attributes.id.as_str())
}

/// CPU nanoseconds, when that was, and the working set.
fn usage(stats: &PodSandboxStats) -> (u64, i64, u64) {
    let linux = stats.linux.clone().unwrap_or_default();
    let cpu = linux.cpu.unwrap_or_default();
    let memory = linux.memory.unwrap_or_default();
    (
        cpu.usage_core_nano_seconds.unwrap_or_default().value,
        cpu.timestamp,
        memory.working_set_bytes.unwrap_or_default().value,
    )
}
