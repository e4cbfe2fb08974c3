//! E2 of images: tags, digests, ids; what is listed, what is removed.

use anyhow::{Context, Result, ensure};
use e2e::catalog::{BUSYBOX, REGISTRY};
use e2e::{Bed, catalog, container, test};
use proto::cri as v1;

fn of(name: &str) -> String {
    format!("{REGISTRY}/{name}")
}

#[test]
fn e2_an_image_by_tag_has_id_tags_digests_and_size() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        let id = cri.pull(BUSYBOX).await?;
        ensure!(id.starts_with("sha256:") && id.len() == 71, "{id}");
        let image = cri.image(BUSYBOX).await?.context("not there")?;
        ensure!(
            image.id == id && image.repo_tags == [BUSYBOX] && image.size > 100_000,
            "{image:?}"
        );
        let digest = catalog::storage()?.tag("busybox", "1")?;
        ensure!(
            image.repo_digests == [of(&format!("busybox@{digest}"))],
            "{:?}",
            image.repo_digests
        );
        // By id, by a short id, by digest: the same image.
        for name in [id.as_str(), &id[7..19], &image.repo_digests[0]] {
            ensure!(
                cri.image(name).await?.is_some_and(|other| other.id == id),
                "{name} is not found"
            );
        }
        Ok(())
    });
}

#[test]
fn e2_an_image_by_digest_has_no_tag() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        let name = of(&format!("busybox@{}", catalog::storage()?.tag("busybox", "2")?));
        let id = cri.pull(&name).await?;
        let image = cri.image(&id).await?.context("not there")?;
        ensure!(image.repo_tags.is_empty() && image.repo_digests == [name], "{image:?}");
        Ok(())
    });
}

#[test]
fn two_tags_are_two_images_and_each_names_its_own() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let two = of("busybox:2");
        bed.cri.pull(&two).await?;
        ensure!(
            bed.cri
                .image_list()
                .await?
                .iter()
                .filter(|image| image.repo_tags.iter().any(|tag| tag.contains("/busybox:")))
                .count()
                == 2,
            "two images"
        );
        let id = bed.create(&container("main", &two, &["env"])).await?;
        ensure!(
            bed.cri
                .container_status(&id)
                .await?
                .image
                .is_some_and(|image| image.image == two),
            "another name"
        );
        Ok(())
    });
}

#[test]
fn e2_the_digest_told_is_that_of_the_index() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for (tag, expected) in [("index", "1"), ("list", "docker")] {
            let name = of(&format!("busybox:{tag}"));
            let id = bed.cri.pull(&name).await?;
            ensure!(id == bed.cri.pull(&of(&format!("busybox:{expected}"))).await?, "{tag}");
            let image = bed.cri.image(&name).await?.context("not there")?;
            let digest = catalog::storage()?.tag("busybox", tag)?;
            // The digest of the index, for that is what was asked for.
            ensure!(
                image.repo_digests.iter().any(|it| it.ends_with(&digest)),
                "{tag}: {:?}",
                image.repo_digests
            );
        }
        ensure!(
            bed.cri.pull(&of("busybox:elsewhere")).await.is_err(),
            "an index without this platform"
        );
        Ok(())
    });
}

#[test]
fn media_types_of_docker_zstd_and_plain_tar() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for kind in ["docker", "zstd", "plain"] {
            let name = of(&format!("busybox:{kind}"));
            bed.cri.pull(&name).await?;
            ensure!(
                bed.output_of(&container(kind, &name, &["sh", "-c", "echo $MARK"]))
                    .await?
                    == format!("{kind}\n"),
                "{kind}"
            );
        }
        Ok(())
    });
}

#[test]
fn e3_removing_an_image_takes_all_its_names_and_may_be_repeated() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        let id = cri.pull(BUSYBOX).await?;
        cri.pull(&of("busybox:index")).await?;
        ensure!(
            cri.image(BUSYBOX)
                .await?
                .is_some_and(|image| image.repo_tags.len() == 2),
            "one image by two names"
        );
        cri.remove_image(&id).await?;
        ensure!(
            cri.image(BUSYBOX).await?.is_none() && cri.image(&of("busybox:index")).await?.is_none(),
            "still there"
        );
        cri.remove_image(&id).await?;
        cri.remove_image(BUSYBOX).await?;
        // And again from the start.
        ensure!(cri.pull(BUSYBOX).await? == id, "another id");
        Ok(())
    });
}

#[test]
fn e8_the_same_pull_asked_for_many_times_is_one() {
    test(async |node| -> Result<()> {
        let fake = e2e::fake::Fake::start(node, catalog::storage()?, e2e::fake::Fault::Slow)?;
        let name = format!("{}/busybox:1", fake.host());
        let cri = node.cri();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (cri, name) = (cri.clone(), name.clone());
            tasks.spawn(async move { cri.pull(&name).await });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        let blobs = fake
            .seen()
            .iter()
            .filter(|line| line.starts_with("GET") && line.contains("/blobs/"))
            .count();
        ensure!(
            blobs == 2 || !node.ours(),
            "{blobs} blobs were fetched, not a configuration and a layer"
        );
        Ok(())
    });
}

#[test]
fn e2_an_unknown_image_is_no_error_and_a_list_can_be_filtered() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        cri.pull(&of("busybox:2")).await?;
        let request = |name: &str| v1::ListImagesRequest {
            filter: Some(v1::ImageFilter {
                image: Some(e2e::cri::spec(name)),
            }),
        };
        let list = cri
            .images
            .clone()
            .list_images(request(BUSYBOX))
            .await?
            .into_inner()
            .images;
        // containerd ignores the filter.
        ensure!(
            !node.ours() || (list.len() == 1 && list[0].repo_tags == [BUSYBOX]),
            "{list:?}"
        );
        let unknown = cri
            .images
            .clone()
            .list_images(request(&of("no:such")))
            .await?
            .into_inner()
            .images;
        ensure!(!node.ours() || unknown.is_empty(), "unknown");
        ensure!(cri.image(&of("no:such")).await?.is_none(), "unknown");
        Ok(())
    });
}

#[test]
fn e2_the_user_of_an_image_is_told() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(&of("busybox:user")).await?;
        let image = cri.image(&of("busybox:user")).await?.context("not there")?;
        ensure!(image.username == "app" && image.uid.is_none(), "{image:?}");
        Ok(())
    });
}

#[test]
fn what_was_pulled_is_there_after_a_crash() {
    test(async |node| -> Result<()> {
        let id = node.cri().pull(BUSYBOX).await?;
        let cri = node.restart().await?;
        ensure!(cri.image(BUSYBOX).await?.is_some_and(|image| image.id == id), "lost");
        let bed = Bed::new(node).await?;
        ensure!(
            bed.output_of(&container("main", BUSYBOX, &["echo", "whole"])).await? == "whole\n",
            "not whole"
        );
        Ok(())
    });
}
