//! `info`: the server's conditions, handlers, features and verbose information.

use std::io::Write;

use anyhow::{Result, bail};
use proto::cri::StatusRequest;
use serde_json::Value;

use crate::client::{Node, answer};
use crate::json;
use crate::status::{self, Format};

/// Flags of `info`.
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
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    if args.output.check()? == Format::Table {
        bail!("unsupported format: \"table\"");
    }
    let answer = answer(
        node.runtime()
            .await?
            .status(node.ask(StatusRequest { verbose: !args.quiet }))
            .await,
    )?;
    let status = json::value(&answer.status.unwrap_or_default(), "RuntimeStatus")?;
    let mut entry = status::entry(status, &answer.info)?;
    if !answer.runtime_handlers.is_empty() {
        let handlers: Result<Vec<Value>> = answer
            .runtime_handlers
            .iter()
            .map(|handler| json::go_value(handler, "RuntimeHandler"))
            .collect();
        entry.insert("runtimeHandlers".to_owned(), Value::Array(handlers?));
    }
    if let Some(features) = &answer.features {
        entry.insert("features".to_owned(), json::go_value(features, "RuntimeFeatures")?);
    }
    status::print(out, vec![entry], args.output)
}
