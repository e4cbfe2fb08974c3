//! `images`: lists images.

use std::io::Write;

use anyhow::{Context as _, Result, bail};
use proto::cri::{Image, ImageFilter, ImageSpec, ListImagesRequest, ListImagesResponse};
use regex::Regex;

use crate::cli::ListFormat;
use crate::client::{Node, answer};
use crate::table::{self, Table};
use crate::{human, json};

/// Flags of `images`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Args {
    /// Show verbose info for images
    #[arg(short, long)]
    verbose: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// dangling=BOOL, reference=REGEX, before=IMAGE or since=IMAGE; may be repeated
    #[arg(short, long)]
    filter: Vec<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ListFormat,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show output without truncating the ID
    #[arg(long)]
    no_trunc: bool,
    /// Show whether the image is pinned or not
    #[arg(long)]
    pinned: bool,
    /// Image
    #[arg(value_name = "REPOSITORY[:TAG]", default_value = "")]
    image: String,
}

pub(crate) async fn run(args: Args, node: &Node, out: &mut dyn Write) -> Result<()> {
    let images = list(node, &args.image, &args.filter).await?;
    match args.output {
        ListFormat::Json => json::print(out, &ListImagesResponse { images }, "ListImagesResponse"),
        ListFormat::Yaml => json::print_yaml(out, &ListImagesResponse { images }, "ListImagesResponse"),
        ListFormat::Table if args.quiet => images.iter().try_for_each(|image| Ok(writeln!(out, "{}", image.id)?)),
        ListFormat::Table if args.verbose => images.iter().try_for_each(|image| verbose(out, image)),
        ListFormat::Table => Ok(columns(&images, &args).print(out)?),
    }
}

/// The images of a name (all if it is empty), by name, that pass the filters.
pub(crate) async fn list(node: &Node, name: &str, filters: &[String]) -> Result<Vec<Image>> {
    let spec = ImageSpec {
        image: name.to_owned(),
        ..ImageSpec::default()
    };
    let request = node.ask(ListImagesRequest {
        filter: Some(ImageFilter { image: Some(spec) }),
    });
    let mut images = answer(node.images().await?.list_images(request).await)?.images;
    images.sort_by(|a, b| {
        let first = |image: &Image| (image.repo_tags.first().cloned(), image.repo_digests.first().cloned());
        match (first(a), first(b)) {
            ((Some(a), _), (Some(b), _)) | ((_, Some(a)), (_, Some(b))) => a.cmp(&b),
            _ => a.id.cmp(&b.id),
        }
    });
    for filter in filters {
        images = filtered(images, filter).context("filter images")?;
    }
    Ok(images)
}

fn filtered(mut images: Vec<Image>, filter: &str) -> Result<Vec<Image>> {
    match filter.split_once('=') {
        Some(("dangling", value)) => {
            let wanted: bool = value.parse().with_context(|| format!("dangling={value}"))?;
            images.retain(|image| image.repo_tags.is_empty() == wanted);
        }
        Some(("reference", value)) => {
            let pattern = Regex::new(value)?;
            images.retain(|image| pattern.is_match(repository(image).0));
        }
        // In the list's own order, as crictl has it: "since" is what comes before the named one.
        Some(("since", value)) => {
            let end = images.iter().position(|image| is(image, value)).unwrap_or(images.len());
            images.truncate(end);
        }
        Some(("before", value)) => {
            let start = images.iter().rposition(|image| is(image, value)).map_or(0, |at| at + 1);
            images.drain(..start);
        }
        _ => bail!("unknown filter flag: {filter}"),
    }
    Ok(images)
}

/// Whether `name` is the image's digest, first tag or (the beginning of its) id.
fn is(image: &Image, name: &str) -> bool {
    if name.contains('@') {
        return image
            .repo_digests
            .first()
            .is_some_and(|digest| digest.starts_with(name));
    }
    if name.contains(':') {
        return image.repo_tags.first().is_some_and(|tag| tag == name);
    }
    image.id.starts_with(name)
}

/// Name and digest of the first `name@digest`.
fn repository(image: &Image) -> (&str, &str) {
    match image.repo_digests.first() {
        None => ("<none>", "<none>"),
        Some(digest) => digest.split_once('@').unwrap_or(("errorName", "errorRepoDigest")),
    }
}

/// Name and tag for each row of an image.
fn names(image: &Image) -> Vec<(String, String)> {
    const NONE: &str = "<none>";
    let repository = repository(image).0;
    if image.repo_tags.is_empty() {
        return vec![(repository.to_owned(), NONE.to_owned())];
    }
    let pair = |tag: &String| match tag.rsplit_once(':') {
        None => ("errorRepoTag".to_owned(), "errorRepoTag".to_owned()),
        Some((NONE, tag)) => (repository.to_owned(), tag.to_owned()),
        Some((name, tag)) => (name.to_owned(), tag.to_owned()),
    };
    image.repo_tags.iter().map(pair).collect()
}

fn columns(images: &[Image], args: &Args) -> Table {
    let mut table = Table::new();
    let row = |name: String, tag: String, digest: String, id: String, size: String, pinned: String| {
        let digest = args.digests.then_some(digest);
        let pinned = args.pinned.then_some(pinned);
        [Some(name), Some(tag), digest, Some(id), Some(size), pinned]
            .into_iter()
            .flatten()
    };
    let title = |text: &str| text.to_owned();
    table.row(row(
        title("IMAGE"),
        title("TAG"),
        title("DIGEST"),
        title("IMAGE ID"),
        title("SIZE"),
        title("PINNED"),
    ));
    for image in images {
        let short = |id: &str| {
            if args.no_trunc {
                id.to_owned()
            } else {
                table::short(id, "sha256:").to_owned()
            }
        };
        for (name, tag) in names(image) {
            let digest = short(repository(image).1);
            table.row(row(
                name,
                tag,
                digest,
                short(&image.id),
                human::size(image.size, 3),
                image.pinned.to_string(),
            ));
        }
    }
    table
}

fn verbose(out: &mut dyn Write, image: &Image) -> Result<()> {
    writeln!(out, "ID: {}", image.id)?;
    for tag in &image.repo_tags {
        writeln!(out, "RepoTags: {tag}")?;
    }
    for digest in &image.repo_digests {
        writeln!(out, "RepoDigests: {digest}")?;
    }
    if image.size != 0 {
        writeln!(out, "Size: {}", image.size)?;
    }
    if let Some(uid) = &image.uid {
        writeln!(out, "Uid: value:{}", uid.value)?;
    }
    if !image.username.is_empty() {
        writeln!(out, "Username: {}", image.username)?;
    }
    if image.pinned {
        writeln!(out, "Pinned: true")?;
    }
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tags: &[&str], digests: &[&str]) -> Image {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Image {
            id: id.to_owned(),
            repo_tags: own(tags),
            repo_digests: own(digests),
            ..Image::default()
        }
    }

    fn ids(images: Vec<Image>) -> Vec<String> {
        images.into_iter().map(|image| image.id).collect()
    }

    #[test]
    fn rows_name_what_there_is() {
        assert_eq!(
            names(&image("1", &["a/b:1", "c:5000/d:2"], &[])),
            [("a/b".into(), "1".into()), ("c:5000/d".into(), "2".into())]
        );
        assert_eq!(
            names(&image("1", &[], &["a/b@sha256:x"])),
            [("a/b".into(), "<none>".into())]
        );
        assert_eq!(names(&image("1", &[], &[])), [("<none>".into(), "<none>".into())]);
    }

    #[test]
    fn filters() {
        let images = || {
            vec![
                image("1", &["a:1"], &["a@sha256:1"]),
                image("2", &[], &["b@sha256:2"]),
                image("3", &["c:1"], &["c@sha256:3"]),
            ]
        };
        assert_eq!(ids(filtered(images(), "dangling=true").unwrap()), ["2"]);
        assert_eq!(ids(filtered(images(), "reference=^[ab]$").unwrap()), ["1", "2"]);
        assert_eq!(ids(filtered(images(), "since=c:1").unwrap()), ["1", "2"]);
        assert_eq!(ids(filtered(images(), "before=a@sha256:1").unwrap()), ["2", "3"]);
        assert_eq!(ids(filtered(images(), "before=2").unwrap()), ["3"]);
        filtered(images(), "size=1").unwrap_err();
    }
}
