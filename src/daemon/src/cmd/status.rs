//! `bulkhead status`: asks the running daemon for Version and Status. Exit code 1 where no
//! daemon answers, or it says that it is not ready.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use proto::cri::{StatusRequest, VersionRequest};
use serde::Serialize;

use crate::cli::StatusArgs;
use crate::connect::connect;

/// A daemon that is alive answers at once.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
struct Report {
    socket: String,
    runtime: String,
    version: String,
    api_version: String,
    conditions: Vec<Condition>,
    handlers: Vec<String>,
    /// What the daemon adds when asked to be verbose.
    info: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Condition {
    name: String,
    status: bool,
    reason: String,
    message: String,
}

pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let config = config::load(&args.sources.sources())?.config;
    let socket = config.socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime
        .block_on(async { tokio::time::timeout(DEADLINE, ask(&socket)).await })
        .with_context(|| format!("the daemon at {} does not answer", socket.display()))??;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write(&mut out, &report)?;
    }
    let is_ready = report.conditions.iter().all(|condition| condition.status);
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(socket: &std::path::Path) -> anyhow::Result<Report> {
    let mut client = RuntimeServiceClient::new(connect(socket).await?);
    let version = client
        .version(VersionRequest { version: "v1".into() })
        .await
        .context("ask for the version")?
        .into_inner();
    let status = client
        .status(StatusRequest { verbose: true })
        .await
        .context("ask for the status")?
        .into_inner();
    let conditions = status.status.unwrap_or_default().conditions;
    Ok(Report {
        socket: socket.display().to_string(),
        runtime: version.runtime_name,
        version: version.runtime_version,
        api_version: version.runtime_api_version,
        conditions: conditions
            .into_iter()
            .map(|c| Condition {
                name: c.r#type,
                status: c.status,
                reason: c.reason,
                message: c.message,
            })
            .collect(),
        handlers: status
            .runtime_handlers
            .into_iter()
            .map(|handler| handler.name)
            .collect(),
        info: status.info.into_iter().collect(),
    })
}

fn write(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "socket    {}", report.socket)?;
    writeln!(
        out,
        "runtime   {} {} (CRI {})",
        report.runtime, report.version, report.api_version
    )?;
    for condition in &report.conditions {
        let yes = if condition.status { "yes" } else { "no" };
        write!(out, "{:<16} {yes}", condition.name)?;
        for words in [&condition.reason, &condition.message] {
            if !words.is_empty() {
                write!(out, "  {words}")?;
            }
        }
        writeln!(out)?;
    }
    let handlers: Vec<&str> = report
        .handlers
        .iter()
        .map(|name| if name.is_empty() { "(default)" } else { name })
        .collect();
    if !handlers.is_empty() {
        writeln!(out, "handlers  {}", handlers.join(" "))?;
    }
    for (name, value) in &report.info {
        writeln!(out, "{name}: {value}")?;
    }
    Ok(())
}
