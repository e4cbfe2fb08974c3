//! Pulls that succeed: every form of image, what is kept, what is shared, what is removed.

#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    clippy::print_stderr,
    reason = "a test program: every function is a test or serves one"
)]

mod support;

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use ::image::IdShift;
use spec::{ContainerId, Kind};
use support::image::{Content, Image, Layer, Pack, noise, sha, small};
use support::registry::{Act, Registry};
use support::tar::{Header, Tar};
use support::{Bench, eventually, names, read_at, write_at};

fn two_layers(docker: bool, packs: [Pack; 2]) -> Image {
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

async fn registry_with(images: &[(&str, &str, &Image)]) -> Registry {
    let mut content = Content::default();
    for (repository, tag, image) in images {
        content.push(repository, tag, image);
    }
    Registry::start(content).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_image_mounts() {
    for (docker, packs, index) in [
        (true, [Pack::Gzip, Pack::Gzip], false),
        (true, [Pack::Gzip, Pack::Gzip], true),
        (false, [Pack::Zstd, Pack::Gzip], true),
        (false, [Pack::Plain, Pack::Zstd], false),
    ] {
        let bench = Bench::new();
        let image = two_layers(docker, packs);
        let mut content = Content::default();
        if index {
            content.push_index("a/b", "v1", &image);
        } else {
            content.push("a/b", "v1", &image);
        }
        let registry = Registry::start(content).await;
        let store = bench.open();
        let name = registry.name("a/b:v1");
        let pulled = store.pull(&name, None).await.unwrap();
        assert_eq!(pulled.id.with_algorithm(), image.id());
        assert_eq!(pulled.repo_tags, std::slice::from_ref(&name));
        let top = if index { sha(&image.index()) } else { image.digest() };
        assert_eq!(pulled.repo_digests, [registry.name(&format!("a/b@{top}"))]);
        assert_eq!(
            pulled.config.config().as_ref().unwrap().env().as_ref().unwrap(),
            &["A=B"]
        );
        assert!(pulled.size > 0);

        let id = ContainerId::random().unwrap();
        store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
        let root = store.snapshot_mount(&id, None, None).unwrap();
        assert_eq!(read_at(&root, "etc/low").as_deref(), Some("low"));
        assert_eq!(read_at(&root, "etc/both").as_deref(), Some("high"));
        assert_eq!(read_at(&root, "etc/gone"), None);
        assert_eq!(read_at(&root, "d/old"), None);
        assert_eq!(read_at(&root, "d/new").as_deref(), Some("new"));
        write_at(&root, "etc/low", "written");
        assert_eq!(read_at(&root, "etc/low").as_deref(), Some("written"));
        let below = bench
            .root()
            .join("layers")
            .join(&image.layers[0].diff_id[7..])
            .join("etc/low");
        assert_eq!(std::fs::read_to_string(below).unwrap(), "low");
        drop(root);
        store.snapshot_remove(&id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pull_fetches_only_the_manifest() {
    let bench = Bench::new();
    let image = two_layers(false, [Pack::Gzip, Pack::Gzip]);
    let registry = registry_with(&[("x", "1", &image), ("x", "2", &image)]).await;
    let store = bench.open();
    let first = store.pull(&registry.name("x:1"), None).await.unwrap();
    registry.forget();
    let again = store.pull(&registry.name("x:1"), None).await.unwrap();
    assert_eq!(registry.seen().len(), 1);
    assert_eq!(first.pulled_ns, again.pulled_ns);
    let other = store.pull(&registry.name("x:2"), None).await.unwrap();
    assert_eq!(registry.seen().len(), 2);
    assert_eq!(other.repo_tags, [registry.name("x:1"), registry.name("x:2")]);
    assert_eq!(store.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_move_and_digests_have_no_tag() {
    let bench = Bench::new();
    let (one, two) = (
        Image::new(vec![Layer::new(small("f", "1"), Pack::Gzip)], false),
        Image::new(vec![Layer::new(small("f", "2"), Pack::Gzip)], false),
    );
    let registry = registry_with(&[("x", "t", &one)]).await;
    let store = bench.open();
    let by_digest = registry.name(&format!("x@{}", one.digest()));
    let pulled = store.pull(&by_digest, None).await.unwrap();
    assert!(pulled.repo_tags.is_empty());
    assert_eq!(pulled.repo_digests, std::slice::from_ref(&by_digest));
    let tagged = store.pull(&registry.name("x:t"), None).await.unwrap();
    assert_eq!(tagged.repo_tags, [registry.name("x:t")]);
    registry.content(|content| content.push("x", "t", &two));
    let moved = store.pull(&registry.name("x:t"), None).await.unwrap();
    assert_eq!(moved.id.with_algorithm(), two.id());
    let old = store.resolve(&by_digest).unwrap().unwrap();
    assert!(old.repo_tags.is_empty());
    assert_eq!(store.resolve(&registry.name("x:t")).unwrap().unwrap().id, moved.id);
    assert_eq!(store.resolve(old.id.as_str()).unwrap().unwrap().id, old.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let bench = Bench::new();
    let image = two_layers(true, [Pack::Gzip, Pack::Gzip]);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let store = bench.open();
    let before = store.pull(&registry.name("x:1"), None).await.unwrap();
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &before.id, IdShift::NONE).await.unwrap();
    drop(store);
    std::fs::create_dir(bench.root().join("layers/.tmp-left")).unwrap();
    std::fs::create_dir(bench.root().join("layers").join("e".repeat(64))).unwrap();
    std::fs::create_dir(bench.root().join("snapshots").join("f".repeat(64))).unwrap();
    let store = bench.open();
    store.settle(Duration::from_secs(5));
    assert_eq!(bench.layer_names().len(), 2);
    assert_eq!(store.snapshots(), std::slice::from_ref(&id));
    assert_eq!(names(&bench.root().join("snapshots")), [id.as_str()]);
    let after = store.resolve(&registry.name("x:1")).unwrap().unwrap();
    assert_eq!(
        (&after.id, &after.repo_tags, after.size, &after.repo_digests),
        (&before.id, &before.repo_tags, before.size, &before.repo_digests)
    );
    assert!(read_at(&store.snapshot_mount(&id, None, None).unwrap(), "etc/low").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_lost_a_layer_is_dropped_and_pulled_again() {
    let bench = Bench::new();
    let image = two_layers(true, [Pack::Gzip, Pack::Gzip]);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let store = bench.open();
    store.pull(&registry.name("x:1"), None).await.unwrap();
    drop(store);
    std::fs::remove_dir_all(bench.root().join("layers").join(&image.layers[0].diff_id[7..])).unwrap();
    let store = bench.open();
    assert!(store.resolve(&registry.name("x:1")).unwrap().is_none());
    store.pull(&registry.name("x:1"), None).await.unwrap();
    assert_eq!(bench.layer_names().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_costs_a_pull_and_no_container() {
    let bench = Bench::new();
    let image = two_layers(true, [Pack::Gzip, Pack::Gzip]);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let store = bench.open();
    let pulled = store.pull(&registry.name("x:1"), None).await.unwrap();
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
    drop(store);
    std::fs::write(bench.root().join("bulkhead.db"), "rubbish that is no database header").unwrap();
    let store = bench.open();
    assert!(store.list().is_empty());
    assert!(read_at(&store.snapshot_mount(&id, None, None).unwrap(), "etc/low").is_some());
    registry.forget();
    store.pull(&registry.name("x:1"), None).await.unwrap();
    assert_eq!(
        registry.count(&image.layers[0].digest),
        0,
        "a layer that a container stands on is not fetched again"
    );
    assert!(names(&bench.root()).iter().any(|n| n.contains("corrupt")));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_do_not_share_a_root() {
    let bench = Bench::new();
    let first = bench.open();
    let again = || ::image::Store::open(bench.options.clone());
    assert_eq!(again().unwrap_err().kind(), Kind::FailedPrecondition);
    drop(first);
    assert!(again().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_keeps_what_containers_stand_on() {
    let bench = Bench::new();
    let shared = Layer::new(small("base", "b"), Pack::Gzip);
    let one = Image::new(vec![shared.clone(), Layer::new(small("one", "1"), Pack::Gzip)], true);
    let two = Image::new(vec![shared.clone(), Layer::new(small("two", "2"), Pack::Gzip)], true);
    let registry = registry_with(&[("one", "a", &one), ("one", "b", &one), ("two", "a", &two)]).await;
    let store = bench.open();
    let first = store.pull(&registry.name("one:a"), None).await.unwrap();
    store.pull(&registry.name("one:b"), None).await.unwrap();
    store.pull(&registry.name("two:a"), None).await.unwrap();
    assert_eq!(registry.count(&shared.digest), 1);
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &first.id, IdShift::NONE).await.unwrap();
    store.remove(&registry.name("one:a")).await.unwrap();
    assert!(
        store.resolve(&registry.name("one:b")).unwrap().is_none(),
        "all names go"
    );
    store.settle(Duration::from_secs(5));
    assert_eq!(bench.layer_names().len(), 3);
    assert_eq!(
        read_at(&store.snapshot_mount(&id, None, None).unwrap(), "etc/one").as_deref(),
        Some("1")
    );
    assert_eq!(
        store
            .snapshot_create(&ContainerId::random().unwrap(), &first.id, IdShift::NONE)
            .await
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
    store.snapshot_remove(&id).await.unwrap();
    store.settle(Duration::from_secs(5));
    assert_eq!(bench.layer_names().len(), 2);
    store.remove(&two.id()).await.unwrap();
    store.settle(Duration::from_secs(5));
    assert!(bench.layer_names().is_empty(), "{:?}", bench.layer_names());
    for unknown in ["nothing", &"a".repeat(64), "sha256:abc"] {
        store.remove(unknown).await.unwrap();
    }
    store.snapshot_remove(&id).await.unwrap();
    assert!(names(&bench.root().join("snapshots")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_pulls_and_shared_layers_are_fetched_once() {
    let bench = Bench::new();
    let big = Layer::of(&Tar::new().file("big", &noise(3 << 20, 7)).finish(), Pack::Gzip);
    let one = Image::new(vec![big.clone(), Layer::new(small("1", "1"), Pack::Gzip)], true);
    let two = Image::new(vec![big.clone(), Layer::new(small("2", "2"), Pack::Gzip)], true);
    let registry = registry_with(&[("one", "a", &one), ("two", "a", &two)]).await;
    let slow = big.digest.clone();
    registry.script(move |seen, _| {
        if seen.path.contains(&slow) {
            Act::Trickle(1 << 20, Duration::from_millis(50))
        } else {
            Act::Serve
        }
    });
    let store = bench.open();
    let mut pulls = tokio::task::JoinSet::new();
    for at in 0..20 {
        let (store, name) = (
            Arc::clone(&store),
            registry.name(if at % 2 == 0 { "one:a" } else { "two:a" }),
        );
        pulls.spawn(async move { store.pull(&name, None).await.unwrap() });
    }
    let images = pulls.join_all().await;
    assert_eq!(images.len(), 20);
    assert_eq!(registry.count(&big.digest), 1);
    assert_eq!(registry.count("one/manifests"), 1);
    assert_eq!(bench.layer_names().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_caller_takes_nothing_from_the_others() {
    let bench = Bench::new();
    let big = Layer::of(&Tar::new().file("big", &noise(2 << 20, 9)).finish(), Pack::Gzip);
    let image = Image::new(vec![Layer::new(small("1", "1"), Pack::Gzip), big.clone()], true);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let slow = big.digest.clone();
    registry.script(move |seen, _| {
        if seen.path.contains(&slow) {
            Act::Trickle(256 << 10, Duration::from_millis(100))
        } else {
            Act::Serve
        }
    });
    let store = bench.open();
    let spawn = || {
        let (store, name) = (Arc::clone(&store), registry.name("x:1"));
        tokio::spawn(async move { store.pull(&name, None).await })
    };
    let (first, second) = (spawn(), spawn());
    eventually("the layer is asked for", || registry.count(&big.digest) == 1).await;
    first.abort();
    assert!(second.await.unwrap().is_ok());
    assert_eq!(registry.count(&big.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_wants_ends_and_its_retry_goes_on() {
    let bench = Bench::new();
    let (small, big) = (
        Layer::new(small("1", "1"), Pack::Gzip),
        Layer::of(&Tar::new().file("big", &noise(1 << 20, 3)).finish(), Pack::Zstd),
    );
    let image = Image::new(vec![small.clone(), big.clone()], true);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let stall = big.digest.clone();
    registry.script(move |seen, before| {
        if seen.path.contains(&stall) && before == 0 {
            Act::Stall(300_000)
        } else {
            Act::Serve
        }
    });
    let store = bench.open();
    let task = tokio::spawn({
        let (store, name) = (Arc::clone(&store), registry.name("x:1"));
        async move { store.pull(&name, None).await }
    });
    eventually("the first layer is there", || {
        bench.layer_names().iter().any(|n| *n == small.diff_id[7..])
    })
    .await;
    eventually("the second is on its way", || {
        bench.layer_names().iter().any(|n| n.starts_with(".tmp-"))
    })
    .await;
    task.abort();
    eventually("the unfinished layer is gone", || {
        bench.layer_names() == [small.diff_id[7..].to_owned()]
    })
    .await;
    assert!(store.list().is_empty());
    store.pull(&registry.name("x:1"), None).await.unwrap();
    assert_eq!(registry.count(&small.digest), 1, "the finished layer was kept");
    assert_eq!(registry.count(&big.digest), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_layers_below_a_long_path_mount() {
    let mut bench = Bench::new();
    let mut root = bench.options.root.clone();
    for _ in 0..3 {
        root.push("long-directory-name-".repeat(6));
    }
    bench.options.root = root;
    let layers: Vec<Layer> = (0..127)
        .map(|at| Layer::new(small(&format!("f{at}"), &at.to_string()), Pack::Plain))
        .collect();
    let image = Image::new(layers, false);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let store = bench.open();
    let pulled = store.pull(&registry.name("x:1"), None).await.unwrap();
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
    let root = store.snapshot_mount(&id, None, None).unwrap();
    for at in [0, 63, 126] {
        assert_eq!(read_at(&root, &format!("etc/f{at}")).unwrap(), at.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_without_layers_and_with_equal_layers() {
    let bench = Bench::new();
    let layer = Layer::new(small("f", "1"), Pack::Gzip);
    let none = Image::new(vec![], false);
    let twice = Image::new(
        vec![layer.clone(), Layer::new(small("g", "1"), Pack::Gzip), layer],
        false,
    );
    let registry = registry_with(&[("none", "1", &none), ("twice", "1", &twice)]).await;
    let store = bench.open();
    let pulled = store.pull(&registry.name("none:1"), None).await.unwrap();
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
    write_at(&store.snapshot_mount(&id, None, None).unwrap(), "x", "y");
    let pulled = store.pull(&registry.name("twice:1"), None).await.unwrap();
    assert_eq!(pulled.chain.len(), 3);
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
    assert!(read_at(&store.snapshot_mount(&id, None, None).unwrap(), "etc/f").is_some());
}

/// Without `volatile` the end of each container syncs the whole filesystem; with it, overlayfs leaves a mark that a second
/// mount must get past.
#[tokio::test(flavor = "multi_thread")]
async fn a_writable_layer_is_volatile_and_can_be_mounted_again() {
    let bench = Bench::new();
    let image = Image::new(vec![Layer::new(small("f", "1"), Pack::Gzip)], false);
    let registry = registry_with(&[("one", "1", &image)]).await;
    let store = bench.open();
    let pulled = store.pull(&registry.name("one:1"), None).await.unwrap();
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
    let root = store.snapshot_mount(&id, None).unwrap();
    write_at(&root, "x", "y");
    let work = bench.root().join("snapshots").join(id.as_str()).join("work/work");
    assert!(work.join("incompat/volatile").exists());
    drop(root);
    let again = store.snapshot_mount(&id, None).unwrap();
    assert_eq!(read_at(&again, "x").as_deref(), Some("y"));
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_a_layer_does_not_describe_keep_their_owner() {
    let bench = Bench::new();
    let low = Tar::new()
        .raw(
            Header {
                mode: 0o1777,
                ..Header::new(b'5', "tmp")
            },
            b"",
        )
        .raw(
            Header {
                mode: 0o700,
                uid: 7,
                gid: 8,
                ..Header::new(b'5', "home")
            },
            b"",
        )
        .raw(
            Header {
                mode: 0o750,
                uid: 9,
                ..Header::new(b'5', "home/me")
            },
            b"",
        );
    let high = Tar::new()
        .file("tmp/x", b"1")
        .file("home/me/y", b"2")
        .file("new/z", b"3");
    let image = Image::new(vec![Layer::new(low, Pack::Gzip), Layer::new(high, Pack::Gzip)], false);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let store = bench.open();
    let pulled = store.pull(&registry.name("x:1"), None).await.unwrap();
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
    let root = store.snapshot_mount(&id, None, None).unwrap();
    let of = |path: &str| {
        let stat = rustix::fs::statat(&root, path, rustix::fs::AtFlags::empty()).unwrap();
        (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
    };
    assert_eq!(of("tmp"), (0o1777, 0, 0));
    assert_eq!(of("home"), (0o700, 7, 8));
    assert_eq!(of("home/me"), (0o750, 9, 0));
    assert_eq!(of("new"), (0o755, 0, 0));
    assert_eq!(read_at(&root, "home/me/y").as_deref(), Some("2"));
    // The shared layer itself is as its archive says.
    let layer = bench.root().join("layers").join(&image.layers[1].diff_id[7..]);
    assert_eq!(std::fs::metadata(layer.join("tmp")).unwrap().mode() & 0o7777, 0o755);
    drop(store);
    let store = bench.open();
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
    let upper = bench.root().join("snapshots").join(id.as_str()).join("upper");
    assert_eq!(std::fs::metadata(upper.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_cannot_be_stacked_is_refused() {
    let bench = Bench::new();
    let low = Tar::new().dir("usr").dir("usr/bin").link(b'2', "bin", "usr/bin");
    let high = Tar::new().file("bin/tool", b"1");
    let image = Image::new(vec![Layer::new(low, Pack::Gzip), Layer::new(high, Pack::Gzip)], false);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let error = bench.open().pull(&registry.name("x:1"), None).await.unwrap_err();
    assert!(
        error.to_string().contains("\"bin\", which is a symbolic link"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_measured_without_a_walk_in_the_call() {
    let bench = Bench::new();
    let image = Image::new(
        vec![Layer::of(
            &Tar::new().file("big", &noise(1 << 20, 5)).finish(),
            Pack::Gzip,
        )],
        false,
    );
    let registry = registry_with(&[("x", "1", &image)]).await;
    let store = bench.open();
    let pulled = store.pull(&registry.name("x:1"), None).await.unwrap();
    let fs = store.fs_usage().unwrap();
    assert_eq!(fs.mountpoint, bench.root());
    assert!(fs.used_bytes > 1 << 20 && fs.inodes_used >= 2 && fs.timestamp_ns > 0);
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
    let first = store.snapshot_usage(&id).unwrap();
    assert!(first.timestamp_ns > 0 && first.used_bytes <= 4096);
    write_at(
        &store.snapshot_mount(&id, None, None).unwrap(),
        "f",
        &"x".repeat(500_000),
    );
    eventually("the walk has seen the file", || {
        store.snapshot_usage(&id).unwrap().used_bytes > 400_000 || {
            std::thread::sleep(Duration::from_millis(30));
            false
        }
    })
    .await;
    store.snapshot_remove(&id).await.unwrap();
    assert_eq!(store.snapshot_usage(&id), None);
}
