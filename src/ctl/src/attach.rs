//! `attach`: joins a running container's own streams.

use std::io::Write;

use anyhow::Result;
use proto::cri::AttachRequest;

use crate::client::{Node, answer};
use crate::remote::{Transport, session};

/// Flags of `attach`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container has a terminal
    #[arg(short, long)]
    tty: bool,
    /// Keep STDIN open
    #[arg(short = 'i', long)]
    stdin: bool,
    #[command(flatten)]
    transport: Transport,
    /// Container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let request = AttachRequest {
        container_id: args.id,
        stdin: args.stdin,
        tty: args.tty,
        stdout: true,
        stderr: !args.tty,
    };
    let url = answer(node.runtime().await?.attach(node.ask(request)).await)?.url;
    session::run(
        &url,
        session::Wants {
            stdin: args.stdin,
            tty: args.tty,
        },
        &args.transport,
        out,
    )
    .await
}
