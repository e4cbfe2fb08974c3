//! Layers on top of one another: every form, many, none, equal ones, directories that one does not describe.

use std::os::fd::OwnedFd;

use ::image::Store;

use crate::*;

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

/// The content of a container of an image of these layers.
async fn rooted(bench: &Bench, layers: Vec<Tar>) -> Result<(Arc<Store>, Arc<::image::Image>, OwnedFd), ::image::Error> {
    let layers = layers.into_iter().map(|layer| Layer::new(layer, Pack::Gzip)).collect();
    let image = Image::new(layers, false);
    let registry = registry_with(&[("x", "1", &image)]).await;
    let store = bench.open();
    let pulled = store.pull(&registry.name("x:1"), None).await?;
    let id = ContainerId::random().unwrap();
    store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
    let root = store.snapshot_mount(&id, None, None).unwrap();
    Ok((store, pulled, root))
}

fn merged_usr() -> Tar {
    let usr = Tar::new()
        .dir("usr")
        .dir("usr/bin")
        .dir("usr/lib")
        .file("usr/bin/old", b"old");
    usr.link(b'2', "bin", "usr/bin")
        .link(b'2', "lib", "/usr/lib")
        .link(b'2', "lib64", "usr/lib")
}

#[tokio::test(flavor = "multi_thread")]
async fn files_below_a_link_of_a_lower_layer_go_where_it_leads() {
    let bench = Bench::new();
    // Relative and absolute links, two that lead to one place, a whiteout, a directory with content.
    let middle = Tar::new()
        .file("bin/tool", b"1")
        .file("bin/.wh.old", b"")
        .file("lib/deep/a", b"a")
        .file("lib64/deep/b", b"b");
    let top = Tar::new().file("bin/tool", b"2").file("usr/bin/direct", b"d");
    let (store, pulled, root) = rooted(&bench, vec![merged_usr(), middle, top]).await.unwrap();
    let link =
        |name: &str| String::from_utf8(rustix::fs::readlinkat(&root, name, Vec::new()).unwrap().into_bytes()).unwrap();
    assert_eq!(
        (link("bin"), link("lib"), link("lib64")),
        ("usr/bin".into(), "/usr/lib".into(), "usr/lib".into())
    );
    for (path, wanted) in [
        ("usr/bin/tool", Some("2")),
        ("bin/tool", Some("2")),
        ("usr/bin/direct", Some("d")),
        ("usr/bin/old", None),
        ("usr/lib/deep/a", Some("a")),
        ("usr/lib/deep/b", Some("b")),
    ] {
        assert_eq!(read_at(&root, path).as_deref(), wanted, "{path}");
    }
    let stat = rustix::fs::statat(&root, "usr/bin", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!(stat.st_mode & 0o7777, 0o755);
    assert_eq!(pulled.chain.len(), 5, "two layers were carried");
    // It lasts, and goes with the image.
    drop(root);
    let id = pulled.id.with_algorithm();
    for snapshot in store.snapshots() {
        store.snapshot_remove(&snapshot).await.unwrap();
    }
    drop(store);
    let store = bench.open();
    assert!(store.resolve(&id).unwrap().is_some());
    assert_eq!(bench.layer_names().len(), 5);
    store.remove(&id).await.unwrap();
    store.settle(Duration::from_secs(5));
    assert!(bench.layer_names().is_empty(), "{:?}", bench.layer_names());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_described_replaces_the_link() {
    let bench = Bench::new();
    let top = Tar::new().dir("bin").file("bin/tool", b"1");
    let (_store, pulled, root) = rooted(&bench, vec![merged_usr(), top]).await.unwrap();
    assert_eq!(read_at(&root, "bin/tool").as_deref(), Some("1"));
    assert_eq!(read_at(&root, "usr/bin/tool"), None);
    assert_eq!(read_at(&root, "bin/old"), None);
    assert_eq!(pulled.chain.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_link_leads_out_of_the_layers() {
    let host = tempfile::tempdir().unwrap();
    let canary = host.path().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    let inside = host.path().to_str().unwrap().trim_start_matches('/');
    for (target, refused) in [
        (format!("../../../../{inside}"), false),
        (format!("/{inside}"), false),
        (format!("/proc/self/root/{inside}"), true),
        ("nowhere".into(), true),
        ("out".into(), true),
        ("file".into(), true),
    ] {
        let bench = Bench::new();
        let low = Tar::new().dir(inside).file("file", b"f").link(b'2', "out", &target);
        let high = Tar::new().file("out/canary", b"of the image");
        match rooted(&bench, vec![low, high]).await {
            Ok((_, _, root)) => {
                assert!(!refused, "{target}");
                let found = read_at(&root, &format!("{inside}/canary"));
                assert_eq!(found.as_deref(), Some("of the image"), "{target}");
            }
            Err(error) => {
                assert!(refused, "{target}: {error}");
                assert!(error.to_string().contains("\"out\""), "{error}");
            }
        }
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "untouched");
    }
}
