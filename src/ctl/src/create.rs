//! `create`: creates a container in a pod, pulling its image first if asked to.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use proto::cri::{ContainerConfig, CreateContainerRequest, PodSandboxConfig};

use crate::client::{Node, answer};
use crate::pull::{self, Credentials};
use crate::{human, json, report, runp};

/// Flags of `create` and `run` about pulling.
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// Do not pull the image (overrides the config file)
    #[arg(long, conflicts_with = "with_pull")]
    no_pull: bool,
    /// Pull the image (overrides the config file)
    #[arg(long)]
    with_pull: bool,
    #[command(flatten)]
    credentials: Credentials,
    /// How long to wait for the request before it is cancelled
    #[arg(short = 'T', long, value_parser = human::parse_duration)]
    cancel_timeout: Option<Duration>,
}

impl PullArgs {
    /// Whether to pull, where the config file says `by_default`.
    pub(crate) fn wanted(&self, by_default: bool) -> bool {
        by_default && !self.no_pull || self.with_pull
    }
}

/// Flags of `create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pull: PullArgs,
    /// Pod
    #[arg(value_name = "POD-ID")]
    pod: String,
    /// container-config.[json|yaml]
    container_config: PathBuf,
    /// pod-config.[json|yaml]
    pod_config: PathBuf,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let container = load(&args.container_config)?;
    let pod = runp::load(&args.pod_config)?;
    let wanted = args.pull.wanted(node.settings.pull_on_create);
    let id = create(node, &args.pull, wanted, args.pod, (container, pod)).await?;
    writeln!(out, "{id}")?;
    Ok(())
}

/// Creates the container; its id.
pub(crate) async fn create(
    node: &Node,
    args: &PullArgs,
    wanted: bool,
    pod_id: String,
    (container, pod): (ContainerConfig, PodSandboxConfig),
) -> Result<String> {
    if wanted {
        pull_all(node, args, &container, &pod).await?;
    }
    let request = CreateContainerRequest {
        pod_sandbox_id: pod_id,
        config: Some(container),
        sandbox_config: Some(pod),
    };
    let limit = args.cancel_timeout.or(node.settings.request_timeout);
    Ok(answer(
        node.runtime()
            .await?
            .create_container(node.ask_within(request, limit))
            .await,
    )?
    .container_id)
}

/// The container's image and those that it mounts.
async fn pull_all(node: &Node, args: &PullArgs, container: &ContainerConfig, pod: &PodSandboxConfig) -> Result<()> {
    let auth = args.credentials.auth()?;
    let image = container.image.clone().unwrap_or_default();
    let mounted = container
        .mounts
        .iter()
        .filter_map(|mount| mount.image.as_ref())
        .filter(|image| !image.image.is_empty());
    for name in std::iter::once(&image.image).chain(mounted.map(|image| &image.image)) {
        report::info(&format!("Pulling container image: {name}"));
        let spec = proto::cri::ImageSpec {
            image: name.clone(),
            annotations: image.annotations.clone(),
            ..Default::default()
        };
        pull::pull(
            node,
            spec,
            auth.clone(),
            Some(pod.clone()),
            args.credentials.pull_timeout,
        )
        .await?;
    }
    Ok(())
}

/// Reads a container's file.
pub(crate) fn load(path: &Path) -> Result<ContainerConfig> {
    let mut config: ContainerConfig = json::load(path, "ContainerConfig")?;
    match &config.metadata {
        None => bail!("metadata is not set"),
        Some(metadata) if metadata.name.is_empty() => bail!("name is not in metadata of {}", path.display()),
        Some(_) => {}
    }
    match &mut config.image {
        None => bail!("image is not set"),
        Some(image) if image.image.is_empty() => bail!("image field is not set in image of {}", path.display()),
        Some(image) if image.user_specified_image.is_empty() => image.user_specified_image.clone_from(&image.image),
        Some(_) => {}
    }
    Ok(config)
}
