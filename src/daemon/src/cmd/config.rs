//! `bulkhead config`: the effective configuration. Needs no root and no daemon.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::cli::SourceArgs;

pub(crate) fn run(args: &SourceArgs) -> anyhow::Result<ExitCode> {
    let loaded = config::load(&args.sources())?;
    io::stdout().lock().write_all(config::reference(&loaded).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
