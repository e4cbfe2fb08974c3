//! `bulkhead version`: the version of this program.

use std::io::{self, Write};
use std::process::ExitCode;

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    writeln!(io::stdout().lock(), "bulkhead {VERSION}")?;
    Ok(ExitCode::SUCCESS)
}
