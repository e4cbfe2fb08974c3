//! Who gets which credentials: basic, tokens, redirects, realms, mirrors.

use crate::*;

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
