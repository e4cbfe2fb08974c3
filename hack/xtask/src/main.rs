//! The developer's tasks, as `cargo xtask TASK`:
//!
//! | task     | does                                                                      |
//! |----------|---------------------------------------------------------------------------|
//! | `budget` | the quick bench; fails where a ratio to the peer is lost                    |
//! | `build`  | the programs, into target/bulkhead; the small ones static                  |
//! | `ci`     | fmt, house rules, layers, clippy, doc, unit tests: what CI runs first      |
//! | `contract` | docs/kubelet.md and docs/features.md: each sentence and row has a test that runs |
//! | `cri-table` | writes `docs/cri.md`: what becomes of each field of each CRI message     |
//! | `layers` | no crate uses one above it; the daemon's tree is free of `isolation`       |
//! | `lint`   | the house rules that neither rustc nor clippy knows                        |
//!
//! Each check of `ci`, `layers` and `lint` has a bad fixture below `fixtures/`, and a test that
//! sees the check catch it: a check that nobody saw fail is none.
//!
//! Unit tests stand beside the code and need neither root nor network: `ci` runs them by
//! `--lib --bins`. Tests in a crate's `tests/` directory may need root; `hack/test` runs them.
#![expect(clippy::print_stdout, reason = "a developer's tool talks on stdout")]

mod budget;
mod build;
mod checks;
mod ci;
mod contract;
mod cri_table;
mod features;
mod layers;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the quick bench and compare its ratios with what is to be kept.
    Budget {
        /// Judge this report of `hack/bench --json` instead.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Build the programs into target/bulkhead.
    Build(build::Args),
    /// Everything that CI asks of a change before the system tests.
    Ci,
    /// Check that each sentence of docs/kubelet.md and each row of docs/features.md has a test that runs.
    Contract,
    /// Write docs/cri.md: what becomes of each field of each CRI message.
    CriTable,
    /// Check which crate uses which.
    Layers,
    /// Check the house rules.
    Lint,
}

fn main() -> anyhow::Result<ExitCode> {
    let root = root()?;
    let is_fine = match Cli::parse().task {
        Task::Budget { json } => budget::run(&root, json.as_deref())?,
        Task::Build(args) => build::run(&root, &args).map(|()| true)?,
        Task::Ci => ci::run(&root)?,
        Task::Contract => report("contract", &[contract::check(&root)?, features::check(&root)?].concat()),
        Task::CriTable => report("cri-table", &cri_table::check(&root, true)?),
        Task::Layers => report("layers", &layers::check(&root)?),
        Task::Lint => report("lint", &checks::all(&root)?),
    };
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The workspace's directory.
fn root() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .map(Path::to_owned)
        .context("xtask lies in hack/xtask of the workspace")
}

/// Prints what is wrong; whether nothing is.
fn report(task: &str, violations: &[checks::Violation]) -> bool {
    for violation in violations {
        println!("{task}: {violation}");
    }
    violations.is_empty()
}
