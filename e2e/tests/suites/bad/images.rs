//! Registries that are away, slow or lie; hostile layers; a full disk.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::bed::refused_any;
use e2e::catalog::BUSYBOX;
use e2e::cri::{spec, with_deadline};
use e2e::fake::{Fake, Fault};
use e2e::{Bed, Node, Options, catalog, container, test, test_with};
use proto::cri as v1;
use tonic::Code;

fn codes(node: &Node, ours: &'static [Code]) -> &'static [Code] {
    if node.ours() {
        ours
    } else {
        &[
            Code::Unknown,
            Code::NotFound,
            Code::InvalidArgument,
            Code::FailedPrecondition,
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::DataLoss,
        ]
    }
}

/// Pulls from a registry with a fault: refused, and nothing of it listed; then the true registry serves the same.
async fn faulty(node: &Node, fault: Fault, ours: &'static [Code], words: &[&str]) -> Result<()> {
    let fake = Fake::start(node, catalog::storage()?, fault)?;
    let image = format!("{}/busybox:1", fake.host());
    let cri = node.cri();
    refused_any(cri.pull(&image).await, codes(node, ours), words)?;
    ensure!(cri.image(&image).await?.is_none(), "it is listed");
    cri.pull(BUSYBOX).await?;
    Ok(())
}

#[test]
fn references_that_are_none() {
    test(async |node| -> Result<()> {
        for name in [
            "UPPER/Case:1",
            "a b",
            ":tag",
            "host/name@sha256:123",
            "host/name:",
            "../../etc/passwd",
            "host/na\nme",
        ] {
            refused_any(node.cri().pull(name).await, codes(node, &[Code::InvalidArgument]), &[])?;
        }
        Ok(())
    });
}

#[test]
fn images_and_registries_that_are_not_there() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        refused_any(
            cri.pull("127.0.0.1:5000/no/such:image").await,
            codes(node, &[Code::NotFound]),
            &["no/such"],
        )?;
        refused_any(
            cri.pull("127.0.0.1:5000/busybox:nosuchtag").await,
            codes(node, &[Code::NotFound]),
            &["nosuchtag"],
        )?;
        let digest = format!("127.0.0.1:5000/busybox@sha256:{}", "0".repeat(64));
        refused_any(cri.pull(&digest).await, codes(node, &[Code::NotFound]), &[])?;
        refused_any(
            cri.pull("127.0.0.1:9/busybox:1").await,
            codes(node, &[Code::Unavailable]),
            &["127.0.0.1:9"],
        )
    });
}

#[test]
fn a_registry_that_lies_about_a_digest() {
    test(async |node| -> Result<()> {
        faulty(
            node,
            Fault::BlobDigest,
            &[Code::DataLoss, Code::FailedPrecondition, Code::Unavailable],
            &[],
        )
        .await
    });
}

#[test]
fn a_registry_that_lies_about_a_length() {
    test(async |node| -> Result<()> {
        faulty(
            node,
            Fault::BlobTooLong,
            &[Code::DataLoss, Code::FailedPrecondition, Code::Unavailable],
            &[],
        )
        .await
    });
}

#[test]
fn a_registry_that_cuts_connections() {
    test(async |node| -> Result<()> { faulty(node, Fault::BlobCut, &[Code::DataLoss, Code::Unavailable], &[]).await });
}

#[test]
fn a_registry_that_answers_html() {
    test(async |node| -> Result<()> {
        faulty(
            node,
            Fault::Html,
            &[
                Code::Unavailable,
                Code::DataLoss,
                Code::FailedPrecondition,
                Code::InvalidArgument,
                Code::NotFound,
            ],
            &[],
        )
        .await
    });
}

#[test]
fn a_registry_that_is_broken() {
    test(async |node| -> Result<()> { faulty(node, Fault::Broken, &[Code::Unavailable], &[]).await });
}

#[test]
fn a_registry_that_stalls_in_a_layer() {
    test_with(
        Options {
            config: "image:\n  progress_timeout_seconds: 2\n".into(),
            ..Options::default()
        },
        async |node| -> Result<()> {
            if !node.ours() {
                return Ok(());
            }
            faulty(
                node,
                Fault::BlobStalls,
                &[Code::DeadlineExceeded, Code::Unavailable],
                &[],
            )
            .await
        },
    );
}

#[test]
fn a_registry_that_never_answers_and_a_caller_that_gives_up() {
    test(async |node| -> Result<()> {
        let fake = Fake::start(node, catalog::storage()?, Fault::Silent)?;
        let request = || v1::PullImageRequest {
            image: Some(spec(&format!("{}/busybox:1", fake.host()))),
            ..Default::default()
        };
        let begin = Instant::now();
        let answer = node
            .cri()
            .images
            .clone()
            .pull_image(with_deadline(request(), Duration::from_millis(700)))
            .await;
        refused_any(answer, &[Code::DeadlineExceeded, Code::Cancelled], &[])?;
        ensure!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
        // No lock is left: another pull goes on.
        node.cri().pull(BUSYBOX).await?;
        Ok(())
    });
}

#[test]
fn e3_a_pull_with_a_deadline_of_one_millisecond() {
    test(async |node| -> Result<()> {
        let request = v1::PullImageRequest {
            image: Some(spec(BUSYBOX)),
            ..Default::default()
        };
        let cri = node.cri();
        // The connection is there before the clock runs.
        cri.version().await?;
        let answer = cri
            .images
            .clone()
            .pull_image(with_deadline(request, Duration::from_millis(1)))
            .await;
        let codes: &[Code] = if node.ours() {
            &[Code::DeadlineExceeded, Code::Cancelled]
        } else {
            &[Code::DeadlineExceeded, Code::Cancelled, Code::Unknown]
        };
        refused_any(answer, codes, &[])?;
        node.cri().pull(BUSYBOX).await?;
        Ok(())
    });
}

#[test]
fn truncated_and_wrong_layers_are_refused() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        for name in ["truncated-tar", "truncated-gzip", "not-gzip", "wrong-diff-id"] {
            let image = format!("127.0.0.1:5000/odd:{name}");
            let answer = cri.pull(&image).await;
            ensure!(
                answer.is_err() || (name == "truncated-tar" && !node.ours()),
                "{name} was accepted"
            );
            ensure!(cri.image(&image).await?.is_none() || !node.ours(), "{name} is listed");
        }
        Ok(())
    });
}

#[test]
fn layers_that_reach_out_of_their_root() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for name in [
            "dotdot",
            "absolute-symlink",
            "relative-symlink",
            "hardlink-out",
            "whiteout-root",
        ] {
            let image = format!("127.0.0.1:5000/odd:{name}");
            // Refused, or harmless: never outside.
            if bed.cri.pull(&image).await.is_ok() {
                let output = bed
                    .output_of(&container(
                        name,
                        &image,
                        &["sh", "-c", "cat /shadow 2>/dev/null; ls /bin/busybox"],
                    ))
                    .await?;
                ensure!(output == "/bin/busybox\n", "{name}: {output}");
            }
            ensure!(!Path::new("/tmp/bulkhead-escaped").exists(), "{name} wrote to the host");
        }
        Ok(())
    });
}

#[test]
fn a_full_disk_while_pulling() {
    test_with(
        Options {
            small_disk: Some(12),
            ..Options::default()
        },
        async |node| -> Result<()> {
            let cri = node.cri();
            node.sh(&format!(
                "head -c 11M /dev/zero > {}/ballast",
                node.root_dir().display()
            ))?;
            let answer = cri.pull(BUSYBOX).await;
            refused_any(
                answer,
                if node.ours() {
                    &[Code::ResourceExhausted]
                } else {
                    &[Code::Unknown]
                },
                &["space"],
            )?;
            ensure!(cri.image(BUSYBOX).await?.is_none(), "it is listed");
            node.sh(&format!("rm {}/ballast", node.root_dir().display()))?;
            cri.pull(BUSYBOX).await?;
            let bed = Bed::new(node).await?;
            bed.output_of(&container("main", BUSYBOX, &["true"])).await.map(drop)
        },
    );
}
