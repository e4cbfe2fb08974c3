//! `rmi`: removes images.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context as _, Result, bail};
use proto::cri::{ImageSpec, ListContainersRequest, ListImagesRequest, RemoveImageRequest};

use crate::client::{Images, Node, answer};
use crate::{cli, report, select};

/// Flags of `rmi`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove all images
    #[arg(short, long)]
    all: bool,
    /// Remove all unused images
    #[arg(short = 'q', long)]
    prune: bool,
    /// Images; one that is named by a tag goes with all its tags
    #[arg(required_unless_present_any = ["all", "prune"], value_name = "IMAGE-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let mut images = node.images().await?;
    let mut ids: BTreeSet<String> = args.ids.iter().cloned().collect();
    if args.all || args.prune {
        let known = answer(images.list_images(node.ask(ListImagesRequest::default())).await)?.images;
        // What is pinned stays when only the unused is to go.
        ids.extend(
            known
                .into_iter()
                .filter(|image| !(args.prune && image.pinned))
                .map(|image| image.id),
        );
    }
    if args.prune {
        for id in used(node, &mut images).await? {
            ids.remove(&id);
        }
    }
    if ids.is_empty() {
        report::info("No images to remove");
    }
    let mut results = Vec::new();
    for id in &ids {
        results.push(remove(node, &mut images, id, args.prune, out).await);
    }
    cli::all(results)
}

/// The images of containers.
async fn used(node: &Node, images: &mut Images) -> Result<Vec<String>> {
    let request = node.ask(ListContainersRequest::default());
    let containers = answer(node.runtime().await?.list_containers(request).await)?.containers;
    let mut used = Vec::new();
    for container in containers {
        let name = container.image.unwrap_or_default().image;
        match select::image_id(node, images, &name).await {
            Ok(id) => used.extend(id),
            Err(error) => report::error(&format!("image status request for {name:?} failed: {error:#}")),
        }
        // Also where the name has moved on to another image meanwhile.
        used.extend(Some(container.image_id).filter(|id| !id.is_empty()));
    }
    Ok(used)
}

async fn remove(node: &Node, images: &mut Images, id: &str, prune: bool, out: &mut dyn Write) -> Result<()> {
    let image = select::image(node, images, id)
        .await
        .with_context(|| format!("image status request for {id:?} failed"))?;
    let Some(image) = image else {
        bail!("no such image {id}")
    };
    let is_name = !id.starts_with("sha256:") && (id.contains(':') || id.contains('/'));
    if is_name && image.repo_tags.len() > 1 {
        report::warn(&format!(
            "Image {id:?} has multiple tags. Removing this image will delete all of the following tags:"
        ));
        for tag in &image.repo_tags {
            report::warn(&format!("  {tag}"));
        }
    }
    let spec = ImageSpec {
        image: id.to_owned(),
        ..ImageSpec::default()
    };
    match answer(
        images
            .remove_image(node.ask(RemoveImageRequest { image: Some(spec) }))
            .await,
    ) {
        Ok(_) => {}
        // Somebody may have begun to use it since the list was made.
        Err(_) if prune => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("error of removing image {id:?}")),
    }
    let names = if image.repo_tags.is_empty() {
        &image.repo_digests
    } else {
        &image.repo_tags
    };
    for name in names {
        writeln!(out, "Deleted: {name}")?;
    }
    Ok(())
}
