//! `bulkhead ctl`: a CRI client with crictl's verbs, flags and output, and its `/etc/crictl.yaml`,
//! for a node where crictl is not installed.
//!
//! `cli` names the verbs; each verb is one file with its flags and its `run`, which prints to the
//! writer it is given. Beneath them: `client` (the gRPC connection), `settings` (flags, file and
//! environment), `json` (messages as JSON and back), `status` (what the `inspect` verbs print),
//! `select` (which containers or pods are meant), `table` and `human` (columns, sizes, ages) and
//! `remote` (the streaming client behind exec, attach and port-forward).
//!
//! Streaming is always WebSocket: `--transport spdy` is accepted because scripts say it.
//!
//! May use: proto.

mod cli;
mod client;
mod human;
mod json;
mod remote;
mod report;
mod select;
mod settings;
mod status;
mod table;

mod attach;
mod checkpoint;
mod completion;
mod config;
mod create;
mod events;
mod exec;
mod imagefsinfo;
mod images;
mod info;
mod inspect;
mod inspecti;
mod inspectp;
mod logs;
mod metricdescs;
mod metricsp;
mod pods;
mod port_forward;
mod ps;
mod pull;
mod rm;
mod rmi;
mod rmp;
mod run;
mod runp;
mod runtime_config;
mod start;
mod stats;
mod statsp;
mod stop;
mod stopp;
mod update;
mod update_runtime_config;
mod version;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

/// Runs one command line, without the program's own name in front, on stdin, stdout and stderr. The exit code is
/// 0, 1 for an error (which is printed), 2 for a wrong command line, or that of an exec'd process.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let name = std::iter::once(OsString::from("bulkhead ctl"));
    let cli = match cli::Cli::try_parse_from(name.chain(args)) {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // Nothing is left to be done if even this cannot be written.
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report::error(&format!("starting: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let result = runtime.block_on(cli::run(cli, &mut out));
    let flushed = out.flush();
    // A read of the terminal may still block a thread: it must not hold the exit up.
    runtime.shutdown_background();
    match result.and_then(|()| flushed.map_err(Into::into)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failure(&error),
    }
}
