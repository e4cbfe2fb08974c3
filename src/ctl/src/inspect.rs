//! `inspect`: the status of containers.

use std::io::Write;

use anyhow::{Context as _, Result, bail};
use proto::cri::{ContainerState, ContainerStatus, ContainerStatusRequest, ContainerStatusResponse};
use serde_json::Value;

use crate::client::{Node, answer};
use crate::select::Containers;
use crate::status::{self, Format};
use crate::{human, json};

/// Flags of `inspect`.
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
    /// Filter by container name regular expression pattern
    #[arg(long)]
    name: Option<String>,
    /// Filter by pod namespace regular expression pattern
    #[arg(long)]
    namespace: Option<String>,
    /// Filter by pod id
    #[arg(short, long)]
    pod: Option<String>,
    /// Filter by container image
    #[arg(long)]
    image: Option<String>,
    /// Filter by container state
    #[arg(short, long)]
    state: Option<String>,
    /// Filter by key=value label
    #[arg(long)]
    label: Vec<String>,
    /// Show the most recently created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Show last n recently created containers (includes all states), 0 for unlimited
    #[arg(short = 'n', long, default_value_t)]
    last: usize,
    /// Show all containers
    #[arg(short, long)]
    all: bool,
    /// Containers
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let format = args.output.check()?;
    let mut ids = args.ids;
    if ids.is_empty() {
        let select = Containers {
            id: None,
            pod: args.pod,
            name: args.name,
            namespace: args.namespace,
            image: args.image,
            state: args.state,
            label: args.label,
            all: args.all,
            latest: args.latest,
            last: args.last,
        };
        ids = select
            .list(node)
            .await
            .context("listing containers")?
            .into_iter()
            .map(|c| c.id)
            .collect();
    }
    if ids.is_empty() {
        bail!("No IDs provided or nothing found per filter");
    }
    let mut runtime = node.runtime().await?;
    let mut entries = Vec::new();
    for id in ids {
        let request = ContainerStatusRequest {
            container_id: id,
            verbose: !args.quiet,
        };
        let answer = answer(runtime.container_status(node.ask(request)).await).context("get container status")?;
        if format == Format::Table {
            table(out, &answer, !args.quiet)?;
        } else {
            let status = value(&answer.status.unwrap_or_default())?;
            entries.push(status::entry(status, &answer.info)?);
        }
    }
    status::print(out, entries, format)
}

/// The status with its times readable.
fn value(status: &ContainerStatus) -> Result<Value> {
    const NEVER: &str = "0001-01-01T00:00:00Z";
    let state = status.state();
    let started = state != ContainerState::ContainerCreated;
    let finished =
        state == ContainerState::ContainerExited || state == ContainerState::ContainerUnknown && status.finished_at > 0;
    let mut value = json::value(status, "ContainerStatus")?;
    value["createdAt"] = Value::String(human::rfc3339(status.created_at));
    for (name, known, at) in [
        ("startedAt", started, status.started_at),
        ("finishedAt", finished, status.finished_at),
    ] {
        value[name] = Value::String(if known { human::rfc3339(at) } else { NEVER.to_owned() });
    }
    Ok(value)
}

fn table(out: &mut dyn Write, answer: &ContainerStatusResponse, verbose: bool) -> Result<()> {
    let status = answer.status.clone().unwrap_or_default();
    writeln!(out, "ID: {}", status.id)?;
    if let Some(metadata) = &status.metadata {
        if !metadata.name.is_empty() {
            writeln!(out, "Name: {}", metadata.name)?;
        }
        if metadata.attempt != 0 {
            writeln!(out, "Attempt: {}", metadata.attempt)?;
        }
    }
    writeln!(out, "State: {}", status.state().as_str_name())?;
    writeln!(out, "Created: {}", human::ago(status.created_at))?;
    if status.state() != ContainerState::ContainerCreated {
        writeln!(out, "Started: {}", human::ago(status.started_at))?;
    }
    if status.state() == ContainerState::ContainerExited {
        if status.finished_at > 0 {
            writeln!(out, "Finished: {}", human::ago(status.finished_at))?;
        }
        writeln!(out, "Exit Code: {}", status.exit_code)?;
    }
    status::pairs(out, "Labels", &status.labels)?;
    status::pairs(out, "Annotations", &status.annotations)?;
    if verbose {
        status::info_line(out, &answer.info)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_only_once_they_have_happened() {
        let mut status = ContainerStatus {
            created_at: 1_700_000_000_000_000_000,
            ..ContainerStatus::default()
        };
        let shown = value(&status).unwrap();
        assert_eq!(
            (&shown["createdAt"], &shown["startedAt"]),
            (&"2023-11-14T22:13:20Z".into(), &"0001-01-01T00:00:00Z".into())
        );
        assert_eq!(shown["state"], "CONTAINER_CREATED");
        status.set_state(ContainerState::ContainerExited);
        status.finished_at = 1_700_000_001_500_000_000;
        assert_eq!(value(&status).unwrap()["finishedAt"], "2023-11-14T22:13:21.5Z");
    }
}
