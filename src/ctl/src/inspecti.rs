//! `inspecti`: the status of images.

use std::io::Write;

use anyhow::{Context as _, Result, bail};
use proto::cri::{ImageSpec, ImageStatusRequest, ImageStatusResponse};

use crate::client::{Node, answer};
use crate::status::{self, Format};
use crate::{human, images, json};

/// Flags of `inspecti`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Do not show verbose information
    #[arg(short, long)]
    quiet: bool,
    /// Template for go-template
    #[arg(long, hide = true)]
    template: Option<String>,
    /// Filter by image name
    #[arg(long, default_value = "")]
    name: String,
    /// dangling=BOOL, reference=REGEX, before=IMAGE or since=IMAGE; may be repeated
    #[arg(short, long)]
    filter: Vec<String>,
    /// Images
    #[arg(value_name = "IMAGE-ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let format = args.output.check()?;
    let mut ids = args.ids;
    if ids.is_empty() {
        let found = images::list(node, &args.name, &args.filter)
            .await
            .context("listing images")?;
        ids = found.into_iter().map(|image| image.id).collect();
    }
    if ids.is_empty() {
        bail!("No IDs provided or nothing found per filter");
    }
    let mut client = node.images().await?;
    let mut entries = Vec::new();
    for id in ids {
        let image = Some(ImageSpec {
            image: id.clone(),
            ..ImageSpec::default()
        });
        let request = node.ask(ImageStatusRequest {
            image,
            verbose: !args.quiet,
        });
        let answer =
            answer(client.image_status(request).await).with_context(|| format!("image status for {id:?} request"))?;
        let Some(image) = &answer.image else {
            bail!("no such image {id:?} present")
        };
        if format == Format::Table {
            table(out, &answer, !args.quiet)?;
        } else {
            entries.push(status::entry(json::value(image, "Image")?, &answer.info)?);
        }
    }
    status::print(out, entries, format)
}

fn table(out: &mut dyn Write, answer: &ImageStatusResponse, verbose: bool) -> Result<()> {
    let image = answer.image.clone().unwrap_or_default();
    writeln!(out, "ID: {}", image.id)?;
    for tag in &image.repo_tags {
        writeln!(out, "Tag: {tag}")?;
    }
    for digest in &image.repo_digests {
        writeln!(out, "Digest: {digest}")?;
    }
    writeln!(out, "Size: {}", human::size(image.size, 3))?;
    if verbose {
        status::info_line(out, &answer.info)?;
    }
    Ok(())
}
