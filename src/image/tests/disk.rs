//! A disk that is full, in the middle of a pull and while an image is removed.

#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    clippy::print_stderr,
    reason = "a test program: every function is a test or serves one"
)]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use spec::Kind;
use support::Bench;
use support::image::{Content, Image, Layer, Pack, noise, small};
use support::registry::Registry;
use support::tar::Tar;

/// A small filesystem that goes away with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let options = std::ffi::CString::new(format!("size={size},mode=0755")).unwrap();
        rustix::mount::mount(
            "tmpfs",
            &at,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

fn image_of(megabytes: usize) -> Image {
    // Many small files: no single one can be refused because of its announced size.
    let mut tar = Tar::new();
    for at in 0..megabytes * 4 {
        tar = tar.file(&format!("f{at}"), &noise(256 << 10, at as u64 + 1));
    }
    Image::new(
        vec![Layer::new(small("first", "1"), Pack::Gzip), Layer::new(tar, Pack::Gzip)],
        true,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_the_pull_and_costs_nothing() {
    let bench = Bench::new();
    let _disk = SmallDisk::new(bench.root(), "8m");
    let mut content = Content::default();
    content.push("big", "1", &image_of(16));
    content.push("fits", "1", &image_of(4));
    let registry = Registry::start(content).await;
    let store = bench.open();
    let error = store.pull(&registry.name("big:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
    assert!(error.to_string().contains("No space left"), "{error}");
    store.settle(Duration::from_secs(5));
    assert!(bench.layer_names().is_empty(), "{:?}", bench.layer_names());
    store.pull(&registry.name("fits:1"), None).await.unwrap();
    // Not one byte free: what is there can be listed and removed.
    let filler = bench.root().join("filler");
    let mut size = 1 << 20;
    let mut all = Vec::new();
    while size >= 512 {
        all.resize(all.len() + size, 1u8);
        if std::fs::write(&filler, &all).is_err() {
            all.truncate(all.len() - size);
            size /= 2;
        }
    }
    assert!(std::fs::write(bench.root().join("more"), vec![1u8; 8192]).is_err());
    assert_eq!(store.list().len(), 1);
    store.remove(&registry.name("fits:1")).await.unwrap();
    store.settle(Duration::from_secs(5));
    assert!(store.list().is_empty() && bench.layer_names().is_empty());
    drop(store);
    std::fs::remove_file(filler).unwrap();
    let store = bench.open();
    assert!(store.list().is_empty());
    store.pull(&registry.name("fits:1"), None).await.unwrap();
}
