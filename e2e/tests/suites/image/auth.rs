//! Credentials, tokens, mirrors, redirects.

use anyhow::{Result, ensure};
use e2e::bed::refused_any;
use e2e::catalog::{BUSYBOX, REGISTRY};
use e2e::fake::{Fake, Fault, USER};
use e2e::registry::{Auth, Registry};
use e2e::{catalog, test};
use proto::cri as v1;
use tonic::Code;

fn user() -> Option<v1::AuthConfig> {
    Some(v1::AuthConfig {
        username: USER.0.into(),
        password: USER.1.into(),
        ..Default::default()
    })
}

#[test]
fn e8_credentials_are_used_and_never_logged() {
    test(async |node| -> Result<()> {
        let registry = Registry::start(node, 5001, Auth::Basic, &catalog::path()?)?;
        node.write_hosts(
            "127.0.0.1:5001",
            "server = \"http://127.0.0.1:5001\"\n[host.\"http://127.0.0.1:5001\"]\n",
        )?;
        let cri = node.cri();
        let image = "127.0.0.1:5001/busybox:1";
        let codes: &[Code] = if node.ours() {
            &[Code::Unauthenticated, Code::PermissionDenied]
        } else {
            &[Code::Unknown, Code::Unauthenticated, Code::PermissionDenied]
        };
        refused_any(cri.pull(image).await, codes, &[])?;
        let wrong = Some(v1::AuthConfig {
            username: USER.0.into(),
            password: "wrong".into(),
            ..Default::default()
        });
        refused_any(cri.pull_as(image, wrong).await, codes, &[])?;
        cri.pull_as(image, user()).await?;
        cri.remove_image(image).await?;
        // `auth` is base64 of user:password, as in a docker configuration.
        let auth = Some(v1::AuthConfig {
            auth: "YnVsa2hlYWQ6a2VlbA==".into(),
            ..Default::default()
        });
        cri.pull_as(image, auth).await?;
        ensure!(
            !node.log_tail(10_000).contains("YnVsa2hlYWQ6a2VlbA"),
            "the credentials are in the log"
        );
        ensure!(
            !node.ours() || !node.log_tail(10_000).contains("keel"),
            "the password is in the log"
        );
        registry.stop()
    });
}

#[test]
fn bearer_tokens() {
    test(async |node| -> Result<()> {
        let fake = Fake::start(node, catalog::storage()?, Fault::Token)?;
        let image = format!("{}/busybox:1", fake.host());
        ensure!(node.cri().pull(&image).await.is_err(), "pulled without credentials");
        node.cri().pull_as(&image, user()).await?;
        ensure!(
            fake.seen()
                .iter()
                .any(|line| line.contains("/token") && line.contains("busybox")),
            "no token was fetched: {:?}",
            fake.seen()
        );
        Ok(())
    });
}

#[test]
fn a_mirror_is_asked_first_and_the_name_stays() {
    test(async |node| -> Result<()> {
        node.write_hosts("registry.example", &format!("server = \"http://127.0.0.1:1\"\n[host.\"http://{REGISTRY}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"))?;
        let cri = node.cri();
        cri.pull("registry.example/busybox:1").await?;
        let image = cri.image("registry.example/busybox:1").await?.unwrap_or_default();
        ensure!(image.repo_tags == ["registry.example/busybox:1"], "{image:?}");
        ensure!(
            image
                .repo_digests
                .iter()
                .all(|digest| digest.starts_with("registry.example/busybox@")),
            "{image:?}"
        );
        Ok(())
    });
}

#[test]
fn after_a_dead_mirror_the_next_is_asked() {
    test(async |node| -> Result<()> {
        node.write_hosts(
            "registry.example",
            &format!("server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.1:2\"]\n  capabilities = [\"pull\", \"resolve\"]\n[host.\"http://{REGISTRY}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"),
        )?;
        node.cri().pull("registry.example/busybox:1").await?;
        Ok(())
    });
}

#[test]
fn blobs_by_redirect_without_the_credentials() {
    test(async |node| -> Result<()> {
        let fake = Fake::start(node, catalog::storage()?, Fault::Redirect)?;
        node.cri().pull(&format!("{}/busybox:1", fake.host())).await?;
        ensure!(
            fake.seen().iter().any(|line| line.contains("/elsewhere/")),
            "{:?}",
            fake.seen()
        );
        Ok(())
    });
}

#[test]
fn a_registry_that_is_busy_is_asked_again() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let fake = Fake::start(node, catalog::storage()?, Fault::BusyFirst)?;
        node.cri().pull(&format!("{}/busybox:1", fake.host())).await?;
        Ok(())
    });
}

#[test]
fn what_is_there_is_not_fetched_again() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        let fake = Fake::start(node, catalog::storage()?, Fault::None)?;
        cri.pull(&format!("{}/busybox:1", fake.host())).await?;
        let layers = catalog::storage()?.blob(&catalog::storage()?.tag("busybox", "1")?)?;
        let manifest: serde_json::Value = serde_json::from_slice(&layers)?;
        let layer = manifest["layers"][0]["digest"].as_str().unwrap_or_default().to_owned();
        ensure!(
            !fake
                .seen()
                .iter()
                .any(|line| line.starts_with("GET") && line.contains(&layer)),
            "the layer was fetched again"
        );
        Ok(())
    });
}
