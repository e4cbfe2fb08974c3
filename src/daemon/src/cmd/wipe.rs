//! `bulkhead wipe`: removes all state of a stopped daemon. Refuses while one runs.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use config::Paths;

use crate::cli::WipeArgs;
use crate::lock::{self, Locks};
use crate::wipe::{Place, act, find};

pub(crate) fn run(args: &WipeArgs) -> anyhow::Result<ExitCode> {
    let config = config::load(&args.sources.sources())?.config;
    let paths = config.paths();
    refuse_while_used(&paths)?;
    // A dry run makes nothing, not even the lock files.
    let _locks = if args.dry_run || !is_used(&paths) {
        None
    } else {
        Some(Locks::acquire(&paths)?)
    };
    let steps = find(&Place::of(&config)?)?;
    let mut out = io::stdout().lock();
    if steps.is_empty() {
        writeln!(
            out,
            "nothing to remove in {} and {}",
            paths.root.display(),
            paths.state.display()
        )?;
    }
    let mut failures = 0_u32;
    for step in &steps {
        if args.dry_run {
            writeln!(out, "would {step}")?;
            continue;
        }
        match act(step, &config) {
            Ok(()) => writeln!(out, "{step}")?,
            Err(error) => {
                failures += 1;
                writeln!(out, "failed: {error:#}")?;
            }
        }
    }
    if failures > 0 {
        bail!(
            "{failures} of {} steps failed; run it again when the reasons above are gone",
            steps.len()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a daemon ever worked in both directories.
fn is_used(paths: &Paths) -> bool {
    paths.root_lock().is_file() && paths.state_lock().is_file()
}

fn refuse_while_used(paths: &Paths) -> anyhow::Result<()> {
    for path in [paths.root_lock(), paths.state_lock()] {
        if let Some(pid) = lock::holder(&path)? {
            bail!("a daemon (pid {pid}) holds {}: stop it first", path.display());
        }
    }
    Ok(())
}
