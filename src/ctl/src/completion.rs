//! `completion`: a completion script for `bulkhead ctl`, under the name of whoever calls it.

use std::io::Write;

use anyhow::Result;
use clap::CommandFactory as _;

use crate::cli::Cli;

/// Flags of `completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell to complete for
    #[arg(value_enum, default_value_t = clap_complete::Shell::Bash)]
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args, out: &mut dyn Write) -> Result<()> {
    // A script completes one word as the program's name: an alias `crictl` for `bulkhead ctl`.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "crictl", &mut script);
    Ok(out.write_all(&script)?)
}
