//! Registries that are away, slow, broken, greedy or lying, and what credentials they see.

#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    clippy::print_stderr,
    reason = "a test program: every function is a test or serves one"
)]

mod auth;
mod away;
mod downloads;
mod lies;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use ::image::{Credentials, Error};
use spec::Kind;
use support::image::{Content, Image, Layer, Pack, gzip, noise, sha, small};
use support::registry::{Act, Registry, Seen};
use support::tar::Tar;
use support::{Bench, eventually};

pub(crate) fn image() -> Image {
    Image::new(
        vec![
            Layer::new(small("a", "1"), Pack::Gzip),
            Layer::of(&Tar::new().file("big", &noise(1 << 20, 11)).finish(), Pack::Gzip),
        ],
        true,
    )
}

pub(crate) async fn registry(image: &Image) -> Registry {
    let mut content = Content::default();
    content.push("x", "1", image);
    Registry::start(content).await
}

pub(crate) async fn pull(bench: &Bench, name: &str, auth: Option<Credentials>) -> Result<(), Error> {
    let result = bench.open().pull(name, auth).await.map(|_| ());
    // Whatever happened, nothing unfinished stays.
    eventually("temporaries are gone", || {
        !bench.layer_names().iter().any(|n| n.starts_with('.'))
    })
    .await;
    result
}

pub(crate) fn basic(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials {
        username: user.into(),
        password: password.into(),
        ..Credentials::default()
    })
}

const BASIC: &str = "Basic bWU6TUFSSw=="; // me:MARK

pub(crate) fn assert_away(error: &Error) {
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
}
