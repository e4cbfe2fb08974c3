//! Registries that are away, slow, broken, greedy or lying, and what credentials they see.

#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    clippy::print_stderr,
    reason = "a test program: every function is a test or serves one"
)]

mod support;

use std::time::{Duration, Instant};

use ::image::{Credentials, Error};
use spec::Kind;
use support::image::{Content, Image, Layer, Pack, gzip, noise, sha, small};
use support::registry::{Act, Registry, Seen};
use support::tar::Tar;
use support::{Bench, eventually};

fn image() -> Image {
    Image::new(
        vec![
            Layer::new(small("a", "1"), Pack::Gzip),
            Layer::of(&Tar::new().file("big", &noise(1 << 20, 11)).finish(), Pack::Gzip),
        ],
        true,
    )
}

async fn registry(image: &Image) -> Registry {
    let mut content = Content::default();
    content.push("x", "1", image);
    Registry::start(content).await
}

async fn pull(bench: &Bench, name: &str, auth: Option<Credentials>) -> Result<(), Error> {
    let result = bench.open().pull(name, auth).await.map(|_| ());
    // Whatever happened, nothing unfinished stays.
    eventually("temporaries are gone", || {
        !bench.layer_names().iter().any(|n| n.starts_with('.'))
    })
    .await;
    result
}

fn basic(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials {
        username: user.into(),
        password: password.into(),
        ..Credentials::default()
    })
}

const BASIC: &str = "Basic bWU6TUFSSw=="; // me:MARK

fn assert_away(error: &Error) {
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away() {
    let bench = Bench::new();
    let gone = { registry(&image()).await.name("x:1") };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    let error = pull(&bench, &gone, None).await.unwrap_err();
    assert_away(&error);
    assert!(
        error.to_string().contains(&gone) && error.to_string().contains("refused"),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_forbidden_images() {
    let bench = Bench::new();
    let registry = registry(&image()).await;
    let error = pull(&bench, &registry.name("x:none"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        error.to_string().contains("x:none") && error.to_string().contains("manifest unknown"),
        "{error}"
    );
    registry.script(|_, _| Act::status(403));
    assert_eq!(
        pull(&bench, &registry.name("x:1"), None).await.unwrap_err().kind(),
        Kind::PermissionDenied
    );
    registry.script(|_, _| Act::challenge("Basic realm=\"x\"".into()));
    let error = pull(&bench, &registry.name("x:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(error.to_string().contains("no credentials"), "{error}");
    assert_eq!(
        pull(&bench, "UPPER", None).await.unwrap_err().kind(),
        Kind::InvalidArgument
    );
}

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
async fn a_broken_download_is_resumed_where_it_broke() {
    for restart in [false, true] {
        let bench = Bench::new();
        let whole = image();
        let layer = whole.layers[1].clone();
        let registry = registry(&whole).await;
        let part = layer.digest.clone();
        registry.script(move |seen, before| match before {
            _ if !seen.path.contains(&part) => Act::Serve,
            0 => Act::Break(300_000),
            1 => Act::status(503),
            _ if restart => Act::Whole,
            2 => Act::Break(200_000),
            _ => Act::Serve,
        });
        if restart {
            // A registry that knows no ranges starts anew; what we have is skipped.
            registry.script({
                let part = layer.digest.clone();
                move |seen, before| match before {
                    0 if seen.path.contains(&part) => Act::Break(300_000),
                    _ => Act::Whole,
                }
            });
        }
        pull(&bench, &registry.name("x:1"), None).await.unwrap();
        let asked: Vec<Seen> = registry
            .seen()
            .into_iter()
            .filter(|s| s.path.contains(&layer.digest))
            .collect();
        let ranges: Vec<Option<&str>> = asked.iter().map(|s| s.header("range")).collect();
        assert_eq!((ranges[0], ranges[1]), (None, Some("bytes=300000-")));
        if !restart {
            assert_eq!(ranges[2..], [Some("bytes=300000-"), Some("bytes=500000-")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_starts_elsewhere_is_a_lie() {
    let bench = Bench::new();
    let whole = image();
    let registry = registry(&whole).await;
    let part = whole.layers[1].digest.clone();
    registry.script(move |seen, before| match before {
        _ if !seen.path.contains(&part) => Act::Serve,
        0 => Act::Break(300_000),
        _ => Act::WrongRange,
    });
    let error = pull(&bench, &registry.name("x:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    assert!(error.to_string().contains("range"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_without_end_are_given_up() {
    let bench = Bench::new();
    let whole = image();
    let registry = registry(&whole).await;
    let part = whole.layers[1].digest.clone();
    registry.script(move |seen, _| {
        if seen.path.contains(&part) {
            Act::Break(10)
        } else {
            Act::Serve
        }
    });
    assert_away(
        &tokio::time::timeout(Duration::from_secs(40), pull(&bench, &registry.name("x:1"), None))
            .await
            .unwrap()
            .unwrap_err(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_and_trickles_end() {
    let whole = image();
    let part = whole.layers[1].digest.clone();
    type Make = fn() -> Act;
    let cases: [(&str, Make); 3] = [
        ("after the head", || Act::Stall(0)),
        ("in the middle", || Act::Stall(300_000)),
        ("a trickle", || Act::Trickle(10, Duration::from_millis(50))),
    ];
    for (name, act) in cases {
        let mut bench = Bench::new();
        bench.options.progress_timeout = Duration::from_millis(600);
        let registry = registry(&whole).await;
        let part = part.clone();
        registry.script(move |seen, _| if seen.path.contains(&part) { act() } else { Act::Serve });
        let start = Instant::now();
        let error = pull(&bench, &registry.name("x:1"), None).await.expect_err(name);
        assert_away(&error);
        assert!(error.to_string().contains("no progress"), "{name}: {error}");
        assert!(start.elapsed() < Duration::from_secs(4), "{name}");
    }
    let mut bench = Bench::new();
    bench.options.answer_timeout = Duration::from_millis(300);
    let registry = registry(&whole).await;
    registry.script(|_, _| Act::Hang);
    assert_away(&pull(&bench, &registry.name("x:1"), None).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_ends_at_once() {
    let bench = Bench::new();
    let whole = image();
    let registry = registry(&whole).await;
    let part = whole.layers[1].digest.clone();
    registry.script(move |seen, _| {
        if seen.path.contains(&part) {
            Act::Stall(300_000)
        } else {
            Act::Serve
        }
    });
    let store = bench.open();
    let result = tokio::time::timeout(Duration::from_millis(500), store.pull(&registry.name("x:1"), None)).await;
    assert!(result.is_err());
    let start = Instant::now();
    eventually("the temporary is gone", || {
        !bench.layer_names().iter().any(|n| n.starts_with('.'))
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_registry_is_waited_for() {
    let bench = Bench::new();
    let registry = registry(&image()).await;
    registry.script(|seen, before| match (seen.path.contains("manifests"), before) {
        (true, 0) => Act::Answer(
            http::StatusCode::TOO_MANY_REQUESTS,
            vec![("retry-after", "1".into())],
            "".into(),
        ),
        (true, 1) => Act::status(500),
        _ => Act::Serve,
    });
    let start = Instant::now();
    pull(&bench, &registry.name("x:1"), None).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    // One that wants an hour is told to the kubelet, which has a back-off of its own.
    let bench = Bench::new();
    registry.script(|_, _| {
        Act::Answer(
            http::StatusCode::TOO_MANY_REQUESTS,
            vec![("retry-after", "3600".into())],
            "".into(),
        )
    });
    assert_away(&pull(&bench, &registry.name("x:1"), None).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_authentication() {
    let bench = Bench::new();
    let registry = registry(&image()).await;
    registry.script(|seen, _| {
        if seen.header("authorization") == Some(BASIC) {
            Act::Serve
        } else {
            Act::challenge("Basic realm=\"r\"".into())
        }
    });
    pull(&bench, &registry.name("x:1"), basic("me", "MARK")).await.unwrap();
    let bench = Bench::new();
    let error = pull(&bench, &registry.name("x:1"), basic("me", "WRONG"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(!error.to_string().contains("WRONG") && !format!("{error:?}").contains("WRONG"));
    // Issued for another registry: not sent.
    registry.forget();
    let elsewhere = basic("me", "MARK").map(|c| Credentials {
        server_address: "https://other.example".into(),
        ..c
    });
    assert!(pull(&bench, &registry.name("x:1"), elsewhere).await.is_err());
    assert!(registry.seen().iter().all(|s| s.header("authorization").is_none()));
}

/// A registry that wants a bearer token, which its own `/token` gives for `expected`.
fn bearer(registry: &Registry, token: &'static str, expected: impl Fn(&Seen) -> bool + Send + Sync + 'static) {
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"repository:x:pull,push\"",
        registry.address
    );
    registry.script(move |seen, _| {
        if seen.path == "/token" {
            if expected(seen) {
                let answer = format!(r#"{{"token":"{token}","expires_in":300}}"#);
                return Act::Answer(
                    http::StatusCode::OK,
                    vec![("content-type", "application/json".into())],
                    answer.into(),
                );
            }
            return Act::status(401);
        }
        if seen.header("authorization") == Some(&format!("Bearer {token}")) {
            Act::Serve
        } else {
            Act::challenge(realm.clone())
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn bearer_tokens_for_every_sort_of_credential() {
    let registry = registry(&image()).await;
    let ours = |seen: &Seen| seen.query.contains("scope=repository%3Ax%3Apull") && !seen.query.contains("push");
    // Anonymous.
    bearer(&registry, "anon", move |seen| {
        ours(seen) && seen.header("authorization").is_none()
    });
    pull(&Bench::new(), &registry.name("x:1"), None).await.unwrap();
    assert_eq!(registry.count("/token"), 1, "one token for all requests of a pull");
    // Name and password.
    bearer(&registry, "user", move |seen| {
        ours(seen) && seen.header("authorization") == Some(BASIC)
    });
    pull(&Bench::new(), &registry.name("x:1"), basic("me", "MARK"))
        .await
        .unwrap();
    assert_eq!(
        pull(&Bench::new(), &registry.name("x:1"), None)
            .await
            .unwrap_err()
            .kind(),
        Kind::Unauthenticated
    );
    // An identity token, by POST.
    bearer(&registry, "oauth", |seen| {
        let body = String::from_utf8_lossy(&seen.body);
        seen.method == "POST"
            && body.contains("grant_type=refresh_token")
            && body.contains("refresh_token=IDTOKEN")
            && body.contains("service=s")
    });
    let identity = Credentials {
        identity_token: "IDTOKEN".into(),
        ..Credentials::default()
    };
    pull(&Bench::new(), &registry.name("x:1"), Some(identity))
        .await
        .unwrap();
    assert!(registry.seen().iter().all(|s| !s.query.contains("IDTOKEN")));
    // A registry token, as it is.
    registry.forget();
    bearer(&registry, "REGTOKEN", |_| false);
    let given = Credentials {
        registry_token: "REGTOKEN".into(),
        ..Credentials::default()
    };
    pull(&Bench::new(), &registry.name("x:1"), Some(given)).await.unwrap();
    assert_eq!(registry.count("/token"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_in_the_middle_is_renewed() {
    let bench = Bench::new();
    let whole = image();
    let registry = registry(&whole).await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", registry.address);
    registry.script(move |seen, before| {
        if seen.path == "/token" {
            let answer = format!(r#"{{"access_token":"t{before}"}}"#);
            return Act::Answer(http::StatusCode::OK, vec![], answer.into());
        }
        let wanted = if seen.path.contains("blobs") {
            "Bearer t1"
        } else {
            "Bearer t0"
        };
        if seen.header("authorization") == Some(wanted) {
            Act::Serve
        } else {
            Act::challenge(realm.clone())
        }
    });
    pull(&bench, &registry.name("x:1"), None).await.unwrap();
    assert!(registry.count("/token") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_never_share_a_token() {
    let bench = Bench::new();
    let registry = registry(&image()).await;
    bearer(&registry, "mine", |seen| seen.header("authorization") == Some(BASIC));
    let store = bench.open();
    store.pull(&registry.name("x:1"), basic("me", "MARK")).await.unwrap();
    for other in [None, basic("you", "MARK")] {
        let error = store.pull(&registry.name("x:1"), other).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
    }
}

/// No header of `attacker` may carry a credential.
fn assert_clean(attacker: &Registry) {
    for seen in attacker.seen() {
        for (name, value) in &seen.headers {
            let text = format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
            assert!(
                !["authorization", "cookie", "x-private"].contains(&name.as_str()),
                "{text}"
            );
            assert!(!text.contains("MARK") && !text.contains("bWU6TUFSSw"), "{text}");
        }
        assert!(!seen.query.contains("MARK") && !String::from_utf8_lossy(&seen.body).contains("MARK"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_carry_no_credentials_to_another_origin() {
    let whole = image();
    let registry = registry(&whole).await;
    let attacker = self::registry(&whole).await;
    let away = attacker.address;
    let redirecting = move |seen: &Seen, _| {
        if seen.header("authorization") != Some(BASIC) {
            return Act::challenge("Basic realm=\"r\"".into());
        }
        if seen.path.contains("blobs") {
            Act::redirect(format!("http://{away}{}?sig=1", seen.path))
        } else {
            Act::Serve
        }
    };
    registry.script(redirecting);
    let mut bench = Bench::new();
    let host = registry.address.to_string();
    bench.hosts(
        &host,
        &format!("server = \"http://{host}\"\n[header]\nx-private = \"MARK\"\n"),
    );
    pull(&bench, &registry.name("x:1"), basic("me", "MARK")).await.unwrap();
    assert_eq!(attacker.count("blobs"), 3);
    assert_clean(&attacker);
    assert!(registry.seen().iter().all(|s| s.header("x-private") == Some("MARK")));
    // CVE-2020-15157: the other origin asks for credentials.
    for scheme in [
        "Basic realm=\"r\"".to_owned(),
        format!("Bearer realm=\"http://{away}/token\",service=\"s\""),
    ] {
        let bench = Bench::new();
        attacker.forget();
        attacker.script(move |_, _| Act::challenge(scheme.clone()));
        let error = pull(&bench, &registry.name("x:1"), basic("me", "MARK"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated, "{error}");
        assert_eq!(attacker.count("/token"), 0);
        assert_clean(&attacker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_realm_elsewhere_sees_no_credentials() {
    let whole = image();
    let registry = registry(&whole).await;
    let attacker = self::registry(&whole).await;
    let away = attacker.address;
    registry.script(move |seen, _| {
        if seen.header("authorization") == Some("Bearer stolen") {
            return Act::Serve;
        }
        Act::challenge(format!("Bearer realm=\"http://{away}/token\",service=\"s\""))
    });
    attacker.script(|_, _| Act::Answer(http::StatusCode::OK, vec![], r#"{"token":"stolen"}"#.into()));
    for auth in [
        basic("me", "MARK"),
        Some(Credentials {
            identity_token: "MARK".into(),
            ..Credentials::default()
        }),
    ] {
        // The realm is asked as anybody would; what it gives may or may not be enough.
        pull(&Bench::new(), &registry.name("x:1"), auth).await.unwrap();
        assert!(attacker.count("/token") > 0);
        assert_clean(&attacker);
        attacker.forget();
    }
    // Unless the administrator says that it may.
    let mut bench = Bench::new();
    let host = registry.address.to_string();
    bench.hosts(
        &host,
        &format!("server = \"http://{host}\"\nauth_realms = [\"{away}\"]\n"),
    );
    pull(&bench, &registry.name("x:1"), basic("me", "MARK")).await.unwrap();
    assert!(attacker.seen().iter().any(|s| s.header("authorization") == Some(BASIC)));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_no_tokens() {
    for answer in [
        "",
        "<html>",
        "{}",
        r#"{"token":""}"#,
        r#"{"token":"a\nb"}"#,
        &format!(r#"{{"token":"{}"}}"#, "t".repeat(100_000)),
        &" ".repeat(300_000),
    ] {
        let registry = registry(&image()).await;
        let realm = format!("Bearer realm=\"http://{}/token\"", registry.address);
        let answer = answer.to_owned();
        registry.script(move |seen, _| {
            if seen.path == "/token" {
                Act::Answer(http::StatusCode::OK, vec![], answer.clone().into())
            } else {
                Act::challenge(realm.clone())
            }
        });
        let error = pull(&Bench::new(), &registry.name("x:1"), None).await.unwrap_err();
        assert!(
            matches!(error.kind(), Kind::Unauthenticated | Kind::ResourceExhausted),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_tried_in_order_and_get_no_credentials() {
    let whole = image();
    let (stalls, fails, good, upstream) = (
        registry(&whole).await,
        registry(&whole).await,
        registry(&whole).await,
        registry(&whole).await,
    );
    stalls.script(|_, _| Act::Hang);
    fails.script(|_, _| Act::status(500));
    upstream.script(|_, _| Act::status(500));
    let mut bench = Bench::new();
    bench.options.answer_timeout = Duration::from_millis(400);
    bench.hosts(
        "registry.example",
        &format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            upstream.address, stalls.address, fails.address, good.address
        ),
    );
    pull(&bench, "registry.example/x:1", basic("me", "MARK")).await.unwrap();
    assert!(good.count("blobs") == 3 && fails.count("manifests") > 0 && upstream.seen().is_empty());
    assert!(good.seen().iter().all(|s| s.query == "ns=registry.example"));
    for mirror in [&stalls, &fails, &good] {
        assert_clean(mirror);
    }
    // A mirror that may only serve by digest does not say what a tag is.
    bench.hosts(
        "registry.example",
        &format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
            upstream.address, good.address
        ),
    );
    good.forget();
    assert_away(&pull(&bench, "registry.example/x:1", None).await.unwrap_err());
    assert!(good.seen().is_empty());
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
