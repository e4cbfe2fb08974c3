//! E2: identity.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::cri::with_deadline;
use e2e::{Bed, catalog, container, pod, sleeper, test};
use proto::cri as v1;
use tonic::Code;

use serde_json::json;

use super::{image, wrapped};

#[test]
fn e2_an_image_without_a_tag_is_named_as_it_was_asked_for() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let digest = catalog::storage()?.tag("busybox", "2")?;
        let name = format!("{}/busybox@{digest}", catalog::REGISTRY);
        let image = bed.cri.pull(&name).await?;
        for asked in [&name, &image] {
            let id = bed
                .create(&container(&asked[..6].replace(['.', ':'], "-"), asked, &["true"]))
                .await?;
            let status = bed.cri.container_status(&id).await?;
            ensure!(status.image_id == image, "image_id {}", status.image_id);
            ensure!(status.image_ref == name, "image_ref {}", status.image_ref);
            let told = status.image.unwrap_or_default().image;
            ensure!(told == *asked || told == name, "image {told:?} for {asked}");
        }
        Ok(())
    });
}

#[test]
fn e2_a_retry_after_a_deadline_is_answered_with_what_was_made() {
    test(async |node| -> Result<()> {
        wrapped(node, "1.0.0", "[ $CNI_COMMAND != ADD ] || sleep 1.5").await?;
        let cri = node.cri();
        let config = pod(node, "late");
        let request = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let first = cri
            .runtime
            .clone()
            .run_pod_sandbox(with_deadline(request, Duration::from_millis(300)))
            .await;
        ensure!(
            first.is_err_and(|status| matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)),
            "the deadline was not kept"
        );
        // Both while it is being made and when it is there.
        let id = cri.run_pod(&config).await?;
        ensure!(cri.run_pod(&config).await? == id, "a second pod");
        let listed = cri.pods(None).await?;
        ensure!(listed.len() == 1 && listed[0].id == id, "{listed:?}");
        Ok(())
    });
}

#[test]
fn e2_a_pod_is_listed_only_when_it_is_whole() {
    test(async |node| -> Result<()> {
        wrapped(node, "1.0.0", "[ $CNI_COMMAND != ADD ] || sleep 1").await?;
        let cri = node.cri();
        let config = pod(node, "slow");
        let made = cri.run_pod(&config);
        let looked = async {
            let mut seen = Vec::new();
            for _ in 0..12 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                seen.extend(cri.pods(None).await?);
            }
            Ok::<_, anyhow::Error>(seen)
        };
        let (id, seen) = tokio::join!(made, looked);
        let seen = seen?;
        ensure!(seen.is_empty(), "listed half-way: {seen:?}");
        let status = cri.pod_status(&id?).await?;
        ensure!(!status.network.unwrap_or_default().ip.is_empty(), "no address");
        Ok(())
    });
}

#[test]
fn e2_an_ambiguous_id_is_an_error() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        // Two of seventeen ids begin with the same digit.
        let mut ids = Vec::new();
        for number in 0..17 {
            ids.push(bed.create(&sleeper(&format!("c{number}"))).await?);
        }
        let prefix = ids
            .iter()
            .map(|id| &id[..1])
            .find(|digit| ids.iter().filter(|id| id.starts_with(digit)).count() > 1)
            .context("seventeen different first digits")?;
        let answer = bed.cri.container_status(prefix).await;
        ensure!(
            answer
                .as_ref()
                .is_err_and(|status| !matches!(status.code(), Code::Unknown | Code::Internal)),
            "{answer:?}"
        );
        Ok(())
    });
}

#[test]
fn e2_a_numeric_user_of_an_image_is_told_as_uid() {
    test(async |node| -> Result<()> {
        for (user, uid) in [("1234", 1234), ("4321:100", 4321)] {
            let (_registry, name) = image(node, json!({"Env": ["PATH=/bin"], "User": user}))?;
            let cri = node.cri();
            cri.pull(&name).await?;
            let image = cri.image(&name).await?.context("not there")?;
            let told = image.uid.as_ref().map(|uid| uid.value);
            ensure!(told == Some(uid) && image.username.is_empty(), "{user}: {image:?}");
        }
        Ok(())
    });
}
