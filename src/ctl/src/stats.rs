//! `stats`: what containers use.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use proto::cri::{ContainerStats, ContainerStatsFilter, ListContainerStatsRequest, ListContainerStatsResponse};

use crate::cli::ListFormat;
use crate::client::{Node, Runtime, answer};
use crate::table::{self, Table};
use crate::{human, json, select};

/// Flags of `stats`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Filter by container id
    #[arg(long)]
    id: Option<String>,
    /// Filter by pod id
    #[arg(short, long, default_value = "")]
    pod: String,
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
    /// Container
    #[arg(value_name = "ID", default_value = "")]
    container: String,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let filter = ContainerStatsFilter {
        id: args.id.clone().unwrap_or_else(|| args.container.clone()),
        pod_sandbox_id: args.pod.clone(),
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

async fn list(node: &Node, runtime: &mut Runtime, filter: &ContainerStatsFilter) -> Result<Vec<ContainerStats>> {
    let request = node.ask(ListContainerStatsRequest {
        filter: Some(filter.clone()),
    });
    let mut stats = answer(runtime.list_container_stats(request).await)?.stats;
    stats.sort_by(|a, b| id(a).cmp(id(b)));
    Ok(stats)
}

async fn show(
    args: &Args,
    node: &Node,
    runtime: &mut Runtime,
    filter: &ContainerStatsFilter,
    out: &mut dyn Write,
) -> Result<()> {
    let stats = list(node, runtime, filter).await?;
    match args.output {
        ListFormat::Json => {
            return json::print(out, &ListContainerStatsResponse { stats }, "ListContainerStatsResponse");
        }
        ListFormat::Yaml => {
            return json::print_yaml(out, &ListContainerStatsResponse { stats }, "ListContainerStatsResponse");
        }
        ListFormat::Table => {}
    }
    let before: HashMap<String, ContainerStats> =
        stats.into_iter().map(|stats| (id(&stats).to_owned(), stats)).collect();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let mut table = Table::new();
    table.row(["CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES", "SWAP"]);
    for now in list(node, runtime, filter).await? {
        let Some(before) = before.get(id(&now)) else { continue };
        let memory = now
            .memory
            .as_ref()
            .and_then(|m| m.working_set_bytes)
            .unwrap_or_default()
            .value;
        let (used, at) = cpu(&now);
        // What does not run uses nothing.
        if !args.all && used == 0 && memory == 0 {
            continue;
        }
        let disk = now.writable_layer.clone().unwrap_or_default();
        let swap = now
            .swap
            .as_ref()
            .and_then(|s| s.swap_usage_bytes)
            .unwrap_or_default()
            .value;
        let metadata = now.attributes.clone().unwrap_or_default().metadata.unwrap_or_default();
        table.row([
            table::short(id(&now), "").to_owned(),
            metadata.name,
            percent(cpu(before), (used, at))?,
            human::size(memory, 4),
            human::size(disk.used_bytes.unwrap_or_default().value, 4),
            disk.inodes_used.unwrap_or_default().value.to_string(),
            human::size(swap, 4),
        ]);
    }
    if args.watch {
        // Clear the screen, go to its first line.
        write!(out, "\x1b[2J\x1b[H")?;
    }
    Ok(table.print(out)?)
}

fn id(stats: &ContainerStats) -> &str {
    stats
        .attributes
        .as_ref()
        .map_or("", |attributes| attributes.id.as_str())
}

/// Nanoseconds used, and when that was.
fn cpu(stats: &ContainerStats) -> (u64, i64) {
    let cpu = stats.cpu.unwrap_or_default();
    (cpu.usage_core_nano_seconds.unwrap_or_default().value, cpu.timestamp)
}

/// The share of one CPU that was used between two samples.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(crate) fn percent((before, since): (u64, i64), (now, at): (u64, i64)) -> Result<String> {
    if now == 0 {
        return Ok("0.00".to_owned());
    }
    if at == since {
        bail!("cpu stat is not updated during sample");
    }
    Ok(format!(
        "{:.2}",
        now.saturating_sub(before) as f64 / (at - since) as f64 * 100.0
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        assert_eq!(percent((0, 0), (500, 1000)).unwrap(), "50.00");
        assert_eq!(percent((10, 5), (0, 5)).unwrap(), "0.00");
        percent((10, 5), (10, 5)).unwrap_err();
    }
}
