//! `runp`: runs a pod from a file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use proto::cri::{PodSandboxConfig, RunPodSandboxRequest};

use crate::client::{Node, answer};
use crate::{human, json, report};

/// Flags of `runp`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Runtime handler to use
    #[arg(short, long, default_value = "")]
    runtime: String,
    /// How long to wait before the request is cancelled
    #[arg(short = 'T', long, value_parser = human::parse_duration)]
    cancel_timeout: Option<Duration>,
    /// pod-config.[json|yaml]
    config: PathBuf,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let config = load(&args.config).context("load podSandboxConfig")?;
    let id = start(node, config, args.runtime, args.cancel_timeout).await?;
    writeln!(out, "{id}")?;
    Ok(())
}

/// Runs the pod; its id.
pub(crate) async fn start(
    node: &Node,
    config: PodSandboxConfig,
    handler: String,
    limit: Option<Duration>,
) -> Result<String> {
    let request = RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: handler,
    };
    // Twice the time of another request, as crictl gives it.
    let limit = limit.or_else(|| node.settings.request_timeout.map(|limit| 2 * limit));
    Ok(answer(
        node.runtime()
            .await?
            .run_pod_sandbox(node.ask_within(request, limit))
            .await,
    )?
    .pod_sandbox_id)
}

/// Reads a pod's file and fills in what may be left out.
pub(crate) fn load(path: &Path) -> Result<PodSandboxConfig> {
    let mut config: PodSandboxConfig = json::load(path, "PodSandboxConfig")?;
    let Some(metadata) = &mut config.metadata else {
        bail!("metadata is not set")
    };
    if metadata.uid.is_empty() {
        metadata.uid = uuid()?;
    }
    if metadata.name.is_empty() || metadata.namespace.is_empty() {
        bail!("name or namespace is not in metadata of {}", path.display());
    }
    if config
        .linux
        .as_ref()
        .is_some_and(|linux| linux.cgroup_parent.is_empty())
    {
        report::warn("cgroup_parent is not set. Use `runtime-config` to get the runtime cgroup driver");
    }
    Ok(config)
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).context("random bytes for the pod's uid")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_of_version_4() {
        let uuid = uuid().unwrap();
        assert_eq!((uuid.len(), uuid.as_bytes()[14]), (36, b'4'));
        assert!(matches!(uuid.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }

    #[test]
    fn a_pod_needs_a_name_and_a_namespace() {
        let path = std::env::temp_dir().join(format!("bulkhead-ctl-pod-{}.yaml", std::process::id()));
        std::fs::write(&path, "metadata: {name: a, namespace: b}\n").unwrap();
        assert_eq!(load(&path).unwrap().metadata.unwrap().uid.len(), 36);
        std::fs::write(&path, "metadata: {name: a}\n").unwrap();
        load(&path).unwrap_err();
        std::fs::write(&path, "hostname: a\n").unwrap();
        assert_eq!(load(&path).unwrap_err().to_string(), "metadata is not set");
        std::fs::remove_file(&path).unwrap();
        assert!(load(&path).unwrap_err().to_string().ends_with("not found"));
    }
}
