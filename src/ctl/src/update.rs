//! `update`: changes the limits of running containers.

use std::io::Write;

use anyhow::{Context as _, Result};
use proto::cri::{LinuxContainerResources, UpdateContainerResourcesRequest};

use crate::client::{Node, answer};

/// Flags of `update`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// CPU CFS period to be used for hardcapping (in usecs), 0 for the system default
    #[arg(long, default_value_t)]
    cpu_period: i64,
    /// CPU CFS hardcap limit (in usecs): allowed cpu time in a given period
    #[arg(long, default_value_t)]
    cpu_quota: i64,
    /// CPU shares (relative weight vs. other containers)
    #[arg(long, default_value_t)]
    cpu_share: i64,
    /// Memory limit (in bytes)
    #[arg(long, default_value_t)]
    memory: i64,
    /// CPU(s) to use
    #[arg(long, default_value = "")]
    cpuset_cpus: String,
    /// Memory node(s) to use
    #[arg(long, default_value = "")]
    cpuset_mems: String,
    /// OOM killer score to use
    #[arg(long, default_value_t, allow_negative_numbers = true)]
    oom_score_adj: i64,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let linux = LinuxContainerResources {
        cpu_period: args.cpu_period,
        cpu_quota: args.cpu_quota,
        cpu_shares: args.cpu_share,
        memory_limit_in_bytes: args.memory,
        cpuset_cpus: args.cpuset_cpus,
        cpuset_mems: args.cpuset_mems,
        oom_score_adj: args.oom_score_adj,
        ..LinuxContainerResources::default()
    };
    let mut runtime = node.runtime().await?;
    for id in &args.ids {
        let request = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(linux.clone()),
            ..UpdateContainerResourcesRequest::default()
        };
        answer(runtime.update_container_resources(node.ask(request)).await)
            .with_context(|| format!("updating container resources for {id:?}"))?;
        writeln!(out, "{id}")?;
    }
    Ok(())
}
