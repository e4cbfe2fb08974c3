//! Pulls that succeed: every form of image, what is kept, what is shared, what is removed.

#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    clippy::print_stderr,
    reason = "a test program: every function is a test or serves one"
)]

mod lasting;
mod names;
mod stacking;
#[path = "../support/mod.rs"]
mod support;
mod together;

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use ::image::IdShift;
use spec::{ContainerId, Kind};
use support::image::{Content, Image, Layer, Pack, noise, sha, small};
use support::registry::{Act, Registry};
use support::tar::{Header, Tar};
use support::{Bench, eventually, names, read_at, write_at};

pub(crate) fn two_layers(docker: bool, packs: [Pack; 2]) -> Image {
    let low = Tar::new()
        .dir("etc")
        .file("etc/low", b"low")
        .file("etc/both", b"low")
        .file("etc/gone", b"low")
        .dir("d")
        .file("d/old", b"old");
    let high = Tar::new()
        .dir("etc")
        .file("etc/both", b"high")
        .file("etc/.wh.gone", b"")
        .dir("d")
        .file("d/.wh..wh..opq", b"")
        .file("d/new", b"new");
    Image::new(vec![Layer::new(low, packs[0]), Layer::new(high, packs[1])], docker)
}

pub(crate) async fn registry_with(images: &[(&str, &str, &Image)]) -> Registry {
    let mut content = Content::default();
    for (repository, tag, image) in images {
        content.push(repository, tag, image);
    }
    Registry::start(content).await
}
