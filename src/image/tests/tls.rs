//! https: whose certificate is believed, and that nothing falls back to less.

#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "a test program: every function is a test or serves one"
)]

mod support;

use std::sync::Arc;

use ::image::{Credentials, Error};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use spec::Kind;
use support::Bench;
use support::image::{Content, Image, Layer, Pack, small};
use support::registry::{Act, Registry};

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls");

fn server(ask_for_client: bool) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if ask_for_client {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(format!("{CERTS}/ca.pem")).unwrap())
            .unwrap();
        builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap(),
        )
    } else {
        builder.with_no_client_auth()
    };
    let chain = vec![CertificateDer::from_pem_file(format!("{CERTS}/server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(format!("{CERTS}/server.key")).unwrap();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

async fn registry(ask_for_client: bool) -> Registry {
    let mut content = Content::default();
    content.push(
        "x",
        "1",
        &Image::new(vec![Layer::new(small("a", "1"), Pack::Gzip)], true),
    );
    Registry::start_with(content, Some(server(ask_for_client))).await
}

async fn pull(registry: &Registry, settings: &str, auth: Option<Credentials>) -> Result<(), Error> {
    let mut bench = Bench::new();
    let host = registry.address.to_string();
    bench.hosts(&host, &format!("server = \"https://{host}\"\n{settings}\n"));
    bench.open().pull(&registry.name("x:1"), auth).await.map(|_| ())
}

fn ca() -> String {
    format!("ca = \"{CERTS}/ca.pem\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own() {
    let registry = registry(false).await;
    pull(&registry, &ca(), None).await.unwrap();
    pull(&registry, "skip_verify = true", None).await.unwrap();
    registry.forget();
    let secret = Credentials {
        username: "me".into(),
        password: "MARK".into(),
        ..Credentials::default()
    };
    let error = pull(&registry, "", Some(secret)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("certificate"), "{error}");
    // CVE-2014-5277: neither unverified nor in clear text.
    assert!(registry.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_the_client() {
    let registry = registry(true).await;
    assert!(pull(&registry, &ca(), None).await.is_err());
    let client = format!("{}\nclient = [[\"{CERTS}/client.pem\", \"{CERTS}/client.key\"]]", ca());
    pull(&registry, &client, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_directory_of_certificates() {
    let registry = registry(true).await;
    let mut bench = Bench::new();
    let host = registry.address.to_string();
    bench.hosts(&host, "");
    let dir = bench.dir.path().join("certs.d").join(&host);
    std::fs::remove_file(dir.join("hosts.toml")).unwrap();
    for (from, to) in [
        ("ca.pem", "ca.crt"),
        ("client.pem", "client.cert"),
        ("client.key", "client.key"),
    ] {
        std::fs::copy(format!("{CERTS}/{from}"), dir.join(to)).unwrap();
    }
    bench.open().pull(&registry.name("x:1"), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_verified_even_where_the_registry_is_not() {
    let registry = registry(false).await;
    let store = self::registry(false).await;
    let away = store.address;
    registry.script(move |seen, _| {
        if seen.path.contains("blobs") {
            Act::redirect(format!("https://{away}{}", seen.path))
        } else {
            Act::Serve
        }
    });
    assert!(pull(&registry, "skip_verify = true", None).await.is_err());
    assert!(store.seen().is_empty());
    pull(&registry, &ca(), None).await.unwrap();
    // CVE-2019-10214: the token service is verified too.
    registry.script(move |_, _| Act::challenge(format!("Bearer realm=\"https://{away}/token\"")));
    store.forget();
    assert!(pull(&registry, "skip_verify = true", None).await.is_err());
    assert!(store.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn https_never_becomes_http() {
    let registry = registry(false).await;
    let clear = Registry::start(Content::default()).await;
    let away = clear.address;
    registry.script(move |_, _| Act::redirect(format!("http://{away}/v2/x/manifests/1")));
    assert!(pull(&registry, &ca(), None).await.is_err());
    registry.script(move |_, _| Act::challenge(format!("Bearer realm=\"http://{away}/token\"")));
    assert_eq!(
        pull(&registry, &ca(), None).await.unwrap_err().kind(),
        Kind::PermissionDenied
    );
    assert!(clear.seen().is_empty());
    // A registry that is configured as https and speaks http.
    let plain = Registry::start(Content::default()).await;
    assert!(pull(&plain, &ca(), None).await.is_err());
    assert!(plain.seen().is_empty());
}
