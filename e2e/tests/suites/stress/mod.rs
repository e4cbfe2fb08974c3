//! Streams under stress: many at once, much at once, clients that misbehave.

use anyhow::{Context, Result};
use e2e::{Bed, Node};
use proto::cri as v1;

mod hostile;
mod load;
mod tls;

/// WebSocket, the version that can end a channel.
const V5: &str = "v5.channel.k8s.io";

/// The URL of an exec.
async fn exec(bed: &Bed, id: &str, cmd: &[&str], stdin: bool, tty: bool) -> Result<String> {
    let request = v1::ExecRequest {
        container_id: id.into(),
        cmd: cmd.iter().map(|&word| word.into()).collect(),
        tty,
        stdin,
        stdout: true,
        stderr: !tty,
    };
    Ok(bed.cri.runtime.clone().exec(request).await?.into_inner().url)
}

/// Resident memory of the server in kB, and its descriptors.
fn used(node: &Node) -> Result<(u64, usize)> {
    let pid = node.daemon_pid().context("no server")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .context("no VmRSS")?;
    Ok((memory, std::fs::read_dir(format!("/proc/{pid}/fd"))?.count()))
}

/// How many processes of the node have `needle` in their command line.
fn count(node: &Node, needle: &str) -> usize {
    let all = e2e::leak::living(node.init());
    all.iter().filter(|process| process.command.contains(needle)).count()
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work);
    tokio::time::timeout(std::time::Duration::from_secs(90), done)
        .await
        .context("the client hangs")??
}
