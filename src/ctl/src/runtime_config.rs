//! `runtime-config`: what the server tells the kubelet about itself.

use std::io::Write;

use anyhow::{Context as _, Result};
use proto::cri::RuntimeConfigRequest;

use crate::client::{Node, answer};
use crate::table::Table;

pub(crate) async fn run(node: &Node, out: &mut dyn Write) -> Result<()> {
    let request = node.ask(RuntimeConfigRequest {});
    let config = answer(node.runtime().await?.runtime_config(request).await).context("call RuntimeConfig RPC")?;
    let mut table = Table::with_width(10);
    if let Some(linux) = &config.linux {
        table.row(["cgroup driver:", linux.cgroup_driver().as_str_name()]);
    }
    Ok(table.print(out)?)
}
