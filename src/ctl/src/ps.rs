//! `ps`: lists containers.

use std::io::Write;

use anyhow::{Context as _, Result};
use proto::cri::{Container, ContainerState, ListContainersResponse};

use crate::cli::ListFormat;
use crate::client::Node;
use crate::select::{self, Containers};
use crate::table::{self, Table};
use crate::{human, json, status};

/// Flags of `ps`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Args {
    /// Show verbose information for containers
    #[arg(short, long)]
    verbose: bool,
    /// Filter by container id
    #[arg(long)]
    id: Option<String>,
    /// Filter by container name regular expression pattern
    #[arg(long)]
    name: Option<String>,
    /// Filter by pod id
    #[arg(short, long)]
    pod: Option<String>,
    /// Filter by container image
    #[arg(long)]
    image: Option<String>,
    /// Filter by container state
    #[arg(short, long)]
    state: Option<String>,
    /// Filter by key=value label
    #[arg(long)]
    label: Vec<String>,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ListFormat,
    /// Show all containers
    #[arg(short, long)]
    all: bool,
    /// Show the most recently created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Show last n recently created containers (includes all states), 0 for unlimited
    #[arg(short = 'n', long, default_value_t)]
    last: usize,
    /// Show output without truncating the ID
    #[arg(long)]
    no_trunc: bool,
    /// Show image path instead of image id
    #[arg(short, long)]
    resolve_image_path: bool,
    /// Filter by pod namespace regular expression pattern
    #[arg(long)]
    namespace: Option<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let select = Containers {
        id: args.id.clone(),
        pod: args.pod.clone(),
        name: args.name.clone(),
        namespace: args.namespace.clone(),
        image: args.image.clone(),
        state: args.state.clone(),
        label: args.label.clone(),
        all: args.all,
        latest: args.latest,
        last: args.last,
    };
    let containers = select.list(node).await?;
    match args.output {
        ListFormat::Json => json::print(out, &ListContainersResponse { containers }, "ListContainersResponse"),
        ListFormat::Yaml => json::print_yaml(out, &ListContainersResponse { containers }, "ListContainersResponse"),
        ListFormat::Table if args.quiet => containers.iter().try_for_each(|c| Ok(writeln!(out, "{}", c.id)?)),
        ListFormat::Table if args.verbose => containers.iter().try_for_each(|c| verbose(out, c)),
        ListFormat::Table => Ok(columns(&containers, &args, node).await?.print(out)?),
    }
}

async fn columns(containers: &[Container], args: &Args, node: &Node) -> Result<Table> {
    let mut table = Table::new();
    table.row([
        "CONTAINER",
        "IMAGE",
        "CREATED",
        "STATE",
        "NAME",
        "ATTEMPT",
        "POD ID",
        "POD",
        "NAMESPACE",
    ]);
    let mut images = if args.resolve_image_path {
        Some(node.images().await?)
    } else {
        None
    };
    for container in containers {
        let metadata = container.metadata.clone().unwrap_or_default();
        let short = |id: &str| {
            if args.no_trunc {
                id.to_owned()
            } else {
                table::short(id, "").to_owned()
            }
        };
        let mut image = container.image.clone().unwrap_or_default().image;
        if let Some(images) = &mut images {
            let found = select::image(node, images, &image)
                .await
                .context("failed to fetch repo image")?;
            image = found
                .and_then(|found| found.repo_tags.first().cloned())
                .unwrap_or(image);
        } else if let Some(digest) = image.strip_prefix("sha256:").filter(|_| !args.no_trunc) {
            // The kubelet names the image by its id.
            image = table::short(digest, "").to_owned();
        }
        table.row([
            short(&container.id),
            image,
            human::ago(container.created_at),
            state(container.state()).to_owned(),
            metadata.name,
            metadata.attempt.to_string(),
            short(&container.pod_sandbox_id),
            select::pod_label(&container.labels, "name").to_owned(),
            select::pod_label(&container.labels, "namespace").to_owned(),
        ]);
    }
    Ok(table)
}

fn verbose(out: &mut dyn Write, container: &Container) -> Result<()> {
    writeln!(out, "ID: {}", container.id)?;
    writeln!(out, "PodID: {}", container.pod_sandbox_id)?;
    writeln!(out, "Namespace: {}", select::pod_label(&container.labels, "namespace"))?;
    if let Some(metadata) = &container.metadata {
        if !metadata.name.is_empty() {
            writeln!(out, "Name: {}", metadata.name)?;
        }
        writeln!(out, "Attempt: {}", metadata.attempt)?;
    }
    writeln!(out, "State: {}", state(container.state()))?;
    if let Some(image) = &container.image {
        writeln!(out, "Image: {}", image.image)?;
    }
    writeln!(out, "Created: {}", human::ago(container.created_at))?;
    status::pairs(out, "Labels", &container.labels)?;
    status::pairs(out, "Annotations", &container.annotations)?;
    writeln!(out)?;
    Ok(())
}

fn state(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "Created",
        ContainerState::ContainerRunning => "Running",
        ContainerState::ContainerExited => "Exited",
        ContainerState::ContainerUnknown => "Unknown",
    }
}
