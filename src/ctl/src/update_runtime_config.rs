//! `update-runtime-config`: tells the server what the kubelet would.

use anyhow::{Context as _, Result};
use proto::cri::{NetworkConfig, RuntimeConfig, UpdateRuntimeConfigRequest};

use crate::client::{Node, answer};

/// Flags of `update-runtime-config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The new CIDR value to be used for pod IP addresses
    #[arg(short, long, required = true)]
    pod_cidr: String,
}

pub(crate) async fn run(args: Args, node: &Node) -> Result<()> {
    let request = UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig {
            network_config: Some(NetworkConfig {
                pod_cidr: args.pod_cidr,
            }),
        }),
    };
    answer(node.runtime().await?.update_runtime_config(node.ask(request)).await)
        .map(drop)
        .context("update runtime config")
}
