//! Answers that are lies: types, lengths, digests, documents without end, hostile layers.

use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn html_instead_of_a_manifest() {
    let bench = Bench::new();
    let registry = registry(&image()).await;
    for (status, kind) in [
        (200, "text/html; charset=utf-8"),
        (200, "application/json"),
        (502, "text/html"),
    ] {
        registry.script(move |_, _| {
            Act::Answer(
                http::StatusCode::from_u16(status).unwrap(),
                vec![("content-type", kind.into())],
                "<html>Log in</html>".into(),
            )
        });
        let error = pull(&bench, &registry.name("x:1"), None).await.unwrap_err();
        assert_away(&error);
        assert!(error.to_string().contains("HTML"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_digests_lengths_and_types() {
    let whole = image();
    let layer = whole.layers[1].clone();
    let other = gzip(&noise(layer.blob.len(), 99));
    type Change = Box<dyn Fn(&mut Content)>;
    let cases: Vec<(&str, Kind, Change)> = vec![
        (
            "another blob",
            Kind::DataLoss,
            Box::new({
                let (d, size) = (layer.digest.clone(), layer.blob.len());
                let mut other = other.clone();
                other.resize(size, 0);
                move |c| c.blob("x", &d, &other)
            }),
        ),
        (
            "a bit flipped at the end",
            Kind::DataLoss,
            Box::new({
                let (d, mut blob) = (layer.digest.clone(), layer.blob.clone());
                *blob.last_mut().unwrap() ^= 1;
                move |c| c.blob("x", &d, &blob)
            }),
        ),
        (
            "a longer blob",
            Kind::DataLoss,
            Box::new({
                let (d, blob) = (layer.digest.clone(), [layer.blob.clone(), vec![0; 10]].concat());
                move |c| c.blob("x", &d, &blob)
            }),
        ),
        (
            "a shorter blob",
            Kind::DataLoss,
            Box::new({
                let (d, blob) = (layer.digest.clone(), layer.blob[..1000].to_vec());
                move |c| c.blob("x", &d, &blob)
            }),
        ),
        (
            "another config",
            Kind::DataLoss,
            Box::new({
                let (d, mut config) = (sha(&whole.config), whole.config.clone());
                config[20] ^= 1;
                move |c| c.blob("x", &d, &config)
            }),
        ),
        (
            "another type",
            Kind::InvalidArgument,
            Box::new({
                let manifest = whole.manifest.clone();
                move |c| {
                    c.objects.insert(
                        "x/manifests/1".into(),
                        ("application/vnd.oci.image.index.v1+json".into(), manifest.clone()),
                    );
                }
            }),
        ),
        (
            "a missing blob",
            Kind::NotFound,
            Box::new({
                let d = layer.digest.clone();
                move |c| {
                    c.objects.remove(&format!("x/blobs/{d}"));
                }
            }),
        ),
        (
            "a DiffID that is another's",
            Kind::DataLoss,
            Box::new({
                let mut lying = whole.clone();
                let config = String::from_utf8(whole.config.clone())
                    .unwrap()
                    .replace(&layer.diff_id, &sha(b"other"));
                lying.config = config.into_bytes();
                lying.manifest = lying.make_manifest();
                move |c| c.push("x", "1", &lying)
            }),
        ),
    ];
    for (name, kind, change) in cases {
        let bench = Bench::new();
        let registry = registry(&whole).await;
        registry.content(|c| change(c));
        let error = pull(&bench, &registry.name("x:1"), None).await.expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        if kind == Kind::DataLoss {
            assert!(error.to_string().contains("sha256:"), "{name}: {error}");
        }
        let store = bench.open();
        assert!(store.list().is_empty(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_not_the_one_of_the_digest() {
    let bench = Bench::new();
    let (good, evil) = (image(), Image::new(vec![], true));
    let registry = registry(&good).await;
    let digest = good.digest();
    registry.content(|c| {
        let entry = c.objects.get_mut(&format!("x/manifests/{digest}")).unwrap();
        entry.1.clone_from(&evil.manifest);
    });
    let error = pull(&bench, &registry.name(&format!("x@{digest}")), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    assert_eq!(registry.count("blobs"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_documents_are_not_read() {
    let bench = Bench::new();
    let registry = registry(&image()).await;
    registry.content(|c| {
        c.objects
            .insert("x/manifests/1".into(), ("application/json".into(), vec![b' '; 5 << 20]));
    });
    assert_eq!(
        pull(&bench, &registry.name("x:1"), None).await.unwrap_err().kind(),
        Kind::ResourceExhausted
    );
    // A configuration that is announced too large is not even asked for twice.
    let huge = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"sha256:{}","size":9000000000}},"layers":[]}}"#,
        "a".repeat(64)
    );
    registry.content(|c| {
        c.objects.insert(
            "x/manifests/1".into(),
            ("application/vnd.oci.image.manifest.v1+json".into(), huge.into_bytes()),
        );
        c.blob("x", &format!("sha256:{}", "a".repeat(64)), b"");
    });
    assert!(pull(&bench, &registry.name("x:1"), None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_layers_name_the_layer_and_the_entry() {
    let evil = Layer::new(Tar::new().link(b'2', "l", "/etc").file("l/EVIL", b"x"), Pack::Zstd);
    let truncated = {
        let whole = Tar::new().file("f", &noise(100_000, 5)).finish();
        Layer::of(&whole[..50_000], Pack::Gzip)
    };
    let not_tar = Layer::of(b"this is no tar archive, whatever its name says", Pack::Gzip);
    let cut_gzip = {
        let whole = gzip(&Tar::new().file("f", &noise(100_000, 5)).finish());
        let cut = whole[..whole.len() / 2].to_vec();
        Layer {
            digest: sha(&cut),
            diff_id: sha(b"whatever"),
            blob: cut,
            pack: Pack::Gzip,
        }
    };
    for (layer, kind, words) in [
        (evil, Kind::InvalidArgument, "l/EVIL"),
        (truncated, Kind::DataLoss, "\"f\""),
        (not_tar, Kind::DataLoss, "header"),
        (cut_gzip, Kind::DataLoss, "decompress"),
    ] {
        let bench = Bench::new();
        let digest = layer.digest.clone();
        let registry = registry(&Image::new(vec![layer], false)).await;
        let error = pull(&bench, &registry.name("x:1"), None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            error.to_string().contains(&digest) && error.to_string().contains(words),
            "{error}"
        );
        assert!(bench.layer_names().is_empty());
    }
    assert!(!std::path::Path::new("/etc/EVIL").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_bad_layers_leave_no_descriptor() {
    let bench = Bench::new();
    let registry = registry(&Image::new(vec![Layer::of(b"rubbish", Pack::Gzip)], false)).await;
    let store = bench.open();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    for _ in 0..20 {
        assert!(store.pull(&registry.name("x:1"), None).await.is_err());
    }
    let before = open();
    for _ in 0..200 {
        assert!(store.pull(&registry.name("x:1"), None).await.is_err());
    }
    store.settle(Duration::from_secs(5));
    // Other tests of this program open and close some at the same time.
    assert!(open() < before + 100, "{before} -> {}", open());
}
