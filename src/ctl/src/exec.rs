//! `exec`: runs a command in one container, or in each of those that filters name.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use proto::cri::{ExecRequest, ExecSyncRequest};

use crate::client::{Node, answer};
use crate::remote::{Transport, session};
use crate::report::{self, Exited};
use crate::select::Containers;

/// Flags of `exec`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Args {
    /// Run the command synchronously
    #[arg(short, long)]
    sync: bool,
    /// Timeout in seconds (with --sync)
    #[arg(long, default_value_t)]
    timeout: u32,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Keep STDIN open
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    transport: Transport,
    /// Exec command for all containers matching this name filter regular expression pattern
    #[arg(long)]
    name: Option<String>,
    /// Exec command for all containers matching this pod ID filter
    #[arg(short, long)]
    pod: Option<String>,
    /// Exec command for all containers matching this container image filter
    #[arg(long)]
    image: Option<String>,
    /// Exec command for all containers matching this container state filter
    #[arg(long)]
    state: Option<String>,
    /// Exec command for all containers matching this key=value label filter
    #[arg(long)]
    label: Vec<String>,
    /// Exec command for the most recently created container
    #[arg(short, long)]
    latest: bool,
    /// Exec command for all last n containers, 0 for unlimited
    #[arg(short = 'n', long)]
    last: Option<usize>,
    /// Do not print the container ID if multiple containers are selected
    #[arg(short, long)]
    quiet: bool,
    /// Ignore errors during command execution
    #[arg(short = 'e', long)]
    ignore_errors: bool,
    /// Run the command in parallel if multiple containers are selected (one after another here)
    #[arg(short = 'x', long)]
    parallel: bool,
    /// The container, unless a filter names it, then the command
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "[CONTAINER-ID] COMMAND [ARG]"
    )]
    words: Vec<String>,
}

impl Args {
    fn is_filtered(&self) -> bool {
        let named = [&self.name, &self.pod, &self.image, &self.state]
            .iter()
            .any(|filter| filter.is_some());
        named || !self.label.is_empty() || self.latest || self.last.is_some()
    }

    fn select(&self) -> Containers {
        Containers {
            id: None,
            pod: self.pod.clone(),
            name: self.name.clone(),
            namespace: None,
            image: self.image.clone(),
            state: self.state.clone(),
            label: self.label.clone(),
            all: false,
            latest: self.latest,
            last: self.last.unwrap_or(0),
        }
    }
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let (ids, cmd) = if args.is_filtered() {
        let found = args.select().list(node).await.context("listing containers")?;
        if found.is_empty() {
            bail!("No containers found per filter flags");
        }
        (
            found.into_iter().map(|container| container.id).collect(),
            args.words.clone(),
        )
    } else {
        let (id, cmd) = args.words.split_first().context("a container is needed")?;
        if cmd.is_empty() {
            bail!("a command is needed");
        }
        (vec![id.clone()], cmd.to_vec())
    };
    if args.ignore_errors && !args.quiet {
        report::warn("The `--ignore-errors` option has been set all errors returned by the command will be ignored.");
    }
    let mut first_failure = Ok(());
    for id in ids {
        if args.is_filtered() && !args.quiet && !args.parallel {
            writeln!(out, "{id}:")?;
        }
        let result = one(&args, node, &id, &cmd, out).await;
        first_failure = first_failure.and(result);
    }
    if args.ignore_errors { Ok(()) } else { first_failure }
}

async fn one(args: &Args, node: &Node, id: &str, cmd: &[String], out: &mut dyn Write) -> Result<()> {
    if args.sync {
        let result = sync(args.timeout, node, id, cmd, out).await;
        return result.with_context(|| format!("execing command in container {id} synchronously"));
    }
    let request = ExecRequest {
        container_id: id.to_owned(),
        cmd: cmd.to_vec(),
        tty: args.tty,
        stdin: args.interactive,
        stdout: true,
        stderr: !args.tty,
    };
    let stream = async {
        let url = answer(node.runtime().await?.exec(node.ask(request)).await)?.url;
        let wants = session::Wants {
            stdin: args.interactive,
            tty: args.tty,
        };
        session::run(&url, wants, &args.transport, out).await
    };
    stream
        .await
        .with_context(|| format!("execing command in container {id}"))
}

/// Each stream goes where it belongs, byte for byte.
async fn sync(seconds: u32, node: &Node, id: &str, cmd: &[String], out: &mut dyn Write) -> Result<()> {
    let request = ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: cmd.to_vec(),
        timeout: i64::from(seconds),
    };
    let own = Duration::from_secs(u64::from(seconds));
    // Without a timeout of its own the command may take as long as it takes.
    let limit = node
        .settings
        .request_timeout
        .filter(|_| seconds > 0)
        .map(|limit| limit + own);
    let answer = answer(node.runtime().await?.exec_sync(node.ask_within(request, limit)).await)?;
    out.write_all(&answer.stdout)?;
    out.flush()?;
    std::io::stderr().write_all(&answer.stderr)?;
    match answer.exit_code {
        0 => Ok(()),
        code => Err(Exited(u8::try_from(code & 0xff).unwrap_or(1)).into()),
    }
}
