//! The node runtime daemon, and the administrator's command line.
//!
//! `main` only parses, dispatches and turns an error into a line on stderr and an exit
//! code: 0 done, 1 failed (for `check`: something needed is missing), 2 wrong usage.
//! `serve` is the daemon; every other command is short-lived and works without it, apart
//! from `status` and `ctl`, which ask it.
//!
//! May use: `cgroup`, `cni-invoke`, `config`, `cri`, `ctl`, `image`, `proto`, `spec`, `stream`,
//! `sys`; never `isolation`, which runs in the monitor alone, so that a fault in it cannot
//! take the node down.

mod check;
mod cli;
mod cmd;
mod connect;
mod grpc;
mod lock;
mod logging;
mod metrics;
mod notify;
mod parts;
mod socket;
mod wipe;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // First of all, while there is one thread. A refusal costs memory, nothing else.
    let is_tuned = sys::malloc::tune();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = error.exit_code();
            return match error.print() {
                Ok(()) if code == 0 => ExitCode::SUCCESS,
                _ => ExitCode::from(2),
            };
        }
    };
    let done = match cli.command {
        cli::Command::Serve(args) => cmd::serve::run(&args, is_tuned),
        cli::Command::Config(args) => cmd::config::run(&args),
        cli::Command::Check(args) => cmd::check::run(&args),
        cli::Command::Status(args) => cmd::status::run(&args),
        cli::Command::Wipe(args) => cmd::wipe::run(&args),
        cli::Command::Ctl(args) => return cmd::ctl::run(args),
        cli::Command::Completion(args) => cmd::completion::run(&args),
        cli::Command::Version => cmd::version::run(),
    };
    match done {
        Ok(code) => code,
        // `bulkhead config | head` is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Where even stderr is gone there is nobody left to tell.
            writeln!(io::stderr(), "bulkhead: {error:#}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
