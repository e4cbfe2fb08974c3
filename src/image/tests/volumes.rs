//! Images mounted as volumes of a container.

#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test program: every function is a test or serves one"
)]

mod support;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use image::{IdShift, ImageVolume};
use rustix::fs::{Mode, OFlags, openat};
use spec::{ContainerId, ImageId, Kind};
use support::image::{Content, Image, Layer, Pack, small};
use support::registry::Registry;
use support::tar::{Header, Tar};
use support::{Bench, read_at};

async fn pulled(bench: &Bench, image: &Image) -> (Arc<image::Store>, Arc<image::Image>) {
    let mut content = Content::default();
    content.push(
        "of",
        "container",
        &Image::new(vec![Layer::new(small("main", "m"), Pack::Gzip)], true),
    );
    content.push("of", "volume", image);
    let registry = Registry::start(content).await;
    let store = bench.open();
    store.pull(&registry.name("of:container"), None).await.unwrap();
    let volume = store.pull(&registry.name("of:volume"), None).await.unwrap();
    (store, volume)
}

async fn container(store: &Arc<image::Store>, but: &image::Image) -> ContainerId {
    let id = ContainerId::random().unwrap();
    let main = store.list().into_iter().find(|i| i.id != but.id).unwrap();
    store.snapshot_create(&id, &main.id, IdShift::NONE).await.unwrap();
    id
}

fn volume(
    store: &image::Store,
    id: &ContainerId,
    number: usize,
    image: &ImageId,
    part: &str,
) -> Result<OwnedFd, image::Error> {
    let volume = ImageVolume {
        number,
        image,
        sub_path: Path::new(part),
        shift: IdShift::NONE,
        userns: None,
        label: None,
    };
    store.image_volume(id, volume)
}

fn layered() -> Image {
    let low = Tar::new()
        .dir("etc")
        .file("etc/low", b"low")
        .file("etc/both", b"low")
        .file("gone", b"low");
    let high = Tar::new().dir("etc").file("etc/both", b"high").file(".wh.gone", b"");
    Image::new(vec![Layer::new(low, Pack::Gzip), Layer::new(high, Pack::Gzip)], true)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_mounted_whole_or_in_part_and_nobody_can_write_it() {
    let bench = Bench::new();
    let (store, image) = pulled(&bench, &layered()).await;
    let id = container(&store, &image).await;
    let whole = volume(&store, &id, 0, &image.id, "").unwrap();
    assert_eq!(read_at(&whole, "etc/both").as_deref(), Some("high"));
    assert_eq!(read_at(&whole, "etc/low").as_deref(), Some("low"));
    assert_eq!(read_at(&whole, "gone"), None);
    let part = volume(&store, &id, 1, &image.id, "etc").unwrap();
    assert_eq!(read_at(&part, "both").as_deref(), Some("high"));
    let flags = OFlags::CREATE | OFlags::WRONLY;
    for mount in [&whole, &part] {
        assert_eq!(
            openat(mount, "new", flags, Mode::RUSR).unwrap_err(),
            rustix::io::Errno::ROFS
        );
    }
    for bad in ["none", "etc/both", "../..", "/etc"] {
        let error = volume(&store, &id, 2, &image.id, bad).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        // As the caller does after a failure: all that belongs to the container goes.
        std::fs::remove_dir_all(store.image_volume_dir(&id, 2)).unwrap();
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(bench.root().to_str().unwrap()), "mounted on the host");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_layers_stay_while_the_container_does_also_over_a_restart() {
    let bench = Bench::new();
    let (store, image) = pulled(&bench, &layered()).await;
    let id = container(&store, &image).await;
    let all = bench.layer_names().len();
    let mount = volume(&store, &id, 0, &image.id, "").unwrap();
    store.remove(&image.id.with_algorithm()).await.unwrap();
    store.settle(Duration::from_secs(5));
    assert_eq!(bench.layer_names().len(), all);
    drop(store);
    let store = bench.open();
    store.settle(Duration::from_secs(5));
    assert_eq!(bench.layer_names().len(), all);
    assert_eq!(read_at(&mount, "etc/low").as_deref(), Some("low"));
    store.snapshot_remove(&id).await.unwrap();
    store.settle(Duration::from_secs(5));
    assert_eq!(bench.layer_names().len(), 1, "only the container's own image is left");
    let unknown = volume(&store, &id, 0, &image.id, "").unwrap_err();
    assert_eq!(unknown.kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_one_layer_or_none_shows_the_owner_and_mode_of_its_root() {
    for layers in [0, 1] {
        let bench = Bench::new();
        let root = || {
            let mut header = Header::new(b'5', "./");
            (header.mode, header.uid) = (0o751, 7);
            Tar::new().header(&header)
        };
        let image = Image::new((0..layers).map(|_| Layer::new(root(), Pack::Gzip)).collect(), true);
        let (store, image) = pulled(&bench, &image).await;
        let id = container(&store, &image).await;
        let mount = volume(&store, &id, 0, &image.id, "").unwrap();
        let stat = rustix::fs::fstat(mount.as_fd()).unwrap();
        let wanted = if layers == 0 { (0, 0o755) } else { (7, 0o751) };
        assert_eq!((stat.st_uid, stat.st_mode & 0o7777), wanted);
    }
}
