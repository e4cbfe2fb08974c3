//! `bulkhead-conmon`: the parent of a container's first process.
//!
//! `bulkhead-conmon spawner` serves the daemon's orders on descriptor 3 (`spawner`); each container's monitor is a fork of
//! it. A monitor makes the container itself (`isolation`), owns its stdio or terminal, its log file, its second processes,
//! its OOM watch and its exit record, and outlives daemons: it listens in its state directory for the next one.
//!
//! May use: proto (monitor), spec, sys, cgroup, isolation.

mod answer;
mod attach;
mod container;
mod ending;
mod error;
mod exec;
mod exit;
mod io;
mod log;
mod monitor;
mod oom;
mod pin;
mod placeholder;
mod poll;
mod rpc;
mod socket;
mod spawner;
mod verbs;

use std::process::ExitCode;

#[expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "the only place that speaks to whoever started it"
)]
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match (arguments.next().as_deref(), arguments.next()) {
        (Some("spawner"), None) => sys::fds::inherited(spawner::CONTROL).and_then(spawner::run),
        (Some("--version"), None) => {
            println!(
                "bulkhead-conmon {} protocol {}",
                env!("CARGO_PKG_VERSION"),
                proto::monitor::VERSION
            );
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!(
                "usage: bulkhead-conmon spawner    (the daemon starts it, with a control socket as descriptor 3)"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-conmon: {error}");
            ExitCode::FAILURE
        }
    }
}
