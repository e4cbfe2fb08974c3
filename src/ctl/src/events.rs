//! `events`: prints container events as they happen.

use std::io::Write;

use anyhow::{Result, bail};
use proto::cri::GetEventsRequest;

use crate::client::{Node, answer, rpc};
use crate::json;
use crate::status::Format;

/// Flags of `events`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Template for go-template
    #[arg(long, hide = true)]
    template: Option<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    if args.output.check()? == Format::Table {
        bail!("don't support \"table\" format");
    }
    // No time limit: events come for as long as somebody watches.
    let mut events = answer(
        node.runtime()
            .await?
            .get_container_events(node.ask_within(GetEventsRequest {}, None))
            .await,
    )?;
    while let Some(event) = events.message().await.map_err(|status| rpc(&status))? {
        if args.output == Format::Yaml {
            json::print_yaml(out, &event, "ContainerEventResponse")?;
        } else {
            json::print(out, &event, "ContainerEventResponse")?;
        }
        out.flush()?;
    }
    Ok(())
}
