//! What is there after a restart, a lost layer, a damaged database; what a removal leaves.

use crate::*;

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
    let root = store.snapshot_mount(&id, None, None).unwrap();
    write_at(&root, "x", "y");
    let work = bench.root().join("snapshots").join(id.as_str()).join("work/work");
    assert!(work.join("incompat/volatile").exists());
    drop(root);
    let again = store.snapshot_mount(&id, None, None).unwrap();
    assert_eq!(read_at(&again, "x").as_deref(), Some("y"));
}
