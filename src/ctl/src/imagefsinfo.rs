//! `imagefsinfo`: what images and containers take on disk.

use std::collections::HashMap;
use std::io::Write;

use anyhow::Result;
use proto::cri::{FilesystemUsage, ImageFsInfoRequest};

use crate::client::{Node, answer};
use crate::status::{self, Format};
use crate::{human, json};

/// Flags of `imagefsinfo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Template for go-template
    #[arg(long, hide = true)]
    template: Option<String>,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let format = args.output.check()?;
    let info = answer(
        node.images()
            .await?
            .image_fs_info(node.ask(ImageFsInfoRequest {}))
            .await,
    )?;
    if format == Format::Table {
        table(out, "Container", &info.container_filesystems)?;
        return table(out, "Image", &info.image_filesystems);
    }
    let entry = status::entry(json::value(&info, "ImageFsInfoResponse")?, &HashMap::new())?;
    status::print(out, vec![entry], format)
}

fn table(out: &mut dyn Write, of: &str, filesystems: &[FilesystemUsage]) -> Result<()> {
    writeln!(out, "{of} Filesystem ")?;
    for (i, usage) in filesystems.iter().enumerate() {
        writeln!(out, "TimeStamp[{i}]: {}", usage.timestamp)?;
        writeln!(
            out,
            "Disk[{i}]: {}",
            human::size(usage.used_bytes.unwrap_or_default().value, 4)
        )?;
        writeln!(out, "Inodes[{i}]: {}", usage.inodes_used.unwrap_or_default().value)?;
        writeln!(
            out,
            "Mountpoint[{i}]: {}",
            usage.fs_id.clone().unwrap_or_default().mountpoint
        )?;
    }
    Ok(())
}
