//! E2: names, ids, labels, lists and their filters.

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, container, pod, sleeper, test};
use proto::cri as v1;

#[test]
fn e2_labels_and_annotations_come_back_byte_for_byte() {
    test(async |node| -> Result<()> {
        let odd: std::collections::HashMap<String, String> = [
            ("io.kubernetes.container.hash", "d3adb33f"),
            ("empty", ""),
            ("unicode-ключ", "значение 🚢\n\ttab \"quote\" \\"),
            ("json", "{\"a\": [1, 2]}"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let bed = Bed::with(node, |config| {
            config.labels.clone_from(&odd);
            config.annotations.clone_from(&odd);
        })
        .await?;
        let mut config = sleeper("main");
        config.labels.clone_from(&odd);
        config.annotations.clone_from(&odd);
        let id = bed.create(&config).await?;
        let pod = bed.cri.pod_status(&bed.pod).await?;
        ensure!(pod.labels == odd && pod.annotations == odd, "pod: {pod:?}");
        let status = bed.cri.container_status(&id).await?;
        ensure!(
            status.labels == odd && status.annotations == odd,
            "container: {status:?}"
        );
        let listed = &bed.cri.containers(None).await?[0];
        ensure!(listed.labels == odd && listed.annotations == odd, "list: {listed:?}");
        let listed = &bed.cri.pods(None).await?[0];
        ensure!(listed.labels == odd && listed.annotations == odd, "list: {listed:?}");
        Ok(())
    });
}

#[test]
fn e2_metadata_comes_back_with_its_attempt() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| config.metadata.get_or_insert_default().attempt = 7).await?;
        let mut config = sleeper("main");
        config.metadata.get_or_insert_default().attempt = 9;
        let id = bed.create(&config).await?;
        let pod = bed.cri.pod_status(&bed.pod).await?;
        ensure!(pod.metadata == bed.config.metadata, "{:?}", pod.metadata);
        ensure!(
            bed.cri.container_status(&id).await?.metadata == config.metadata,
            "another metadata"
        );
        Ok(())
    });
}

#[test]
fn e2_the_image_is_named_by_tag_by_digest_and_by_id() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.create(&sleeper("main")).await?;
        let status = bed.cri.container_status(&id).await?;
        let image = bed.cri.image(BUSYBOX).await?.unwrap_or_default();
        ensure!(
            status.image.as_ref().is_some_and(|spec| spec.image == BUSYBOX),
            "image {:?}",
            status.image
        );
        ensure!(
            status.image_id == image.id,
            "image_id {} is not {}",
            status.image_id,
            image.id
        );
        ensure!(
            status.image_ref.contains("@sha256:") || status.image_ref.starts_with("sha256:"),
            "image_ref {}",
            status.image_ref
        );
        let listed = &bed.cri.containers(None).await?[0];
        ensure!(listed.image_id == image.id, "list: image_id {}", listed.image_id);
        Ok(())
    });
}

#[test]
fn e2_a_repeated_request_is_answered_with_what_exists_or_says_the_name_is_taken() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = sleeper("main");
        let id = bed.create(&config).await?;
        match bed.create(&config).await {
            Ok(again) => ensure!(again == id, "a second container {again} beside {id}"),
            Err(status) => ensure!(!node.ours() && status.message().contains("reserved"), "{status:?}"),
        }
        match bed.cri.run_pod(&bed.config).await {
            Ok(again) => ensure!(again == bed.pod, "a second pod {again}"),
            Err(status) => ensure!(!node.ours() && status.message().contains("reserved"), "{status:?}"),
        }
        ensure!(
            bed.cri.containers(None).await?.len() == 1 && bed.cri.pods(None).await?.len() == 1,
            "twice"
        );
        Ok(())
    });
}

#[test]
fn e2_requests_at_the_same_time_for_one_name_make_one_pod() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        let config = pod(node, "pod");
        let answers = tokio::join!(cri.run_pod(&config), cri.run_pod(&config), cri.run_pod(&config));
        let ids: Vec<String> = [answers.0, answers.1, answers.2].into_iter().flatten().collect();
        ensure!(!ids.is_empty() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        ensure!(
            ids.len() == 3 || !node.ours(),
            "only {} of three identical requests were answered",
            ids.len()
        );
        ensure!(cri.pods(None).await?.len() == 1, "more than one pod");
        Ok(())
    });
}

#[test]
fn e2_a_name_is_free_again_after_removal() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let first = bed.create(&sleeper("main")).await?;
        bed.cri.remove(&first).await?;
        let second = bed.create(&sleeper("main")).await?;
        ensure!(first != second, "the same id twice");
        Ok(())
    });
}

#[test]
fn e2_an_id_may_be_cut_short_while_it_is_unique() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.create(&sleeper("main")).await?;
        ensure!(bed.cri.container_status(&id[..12]).await?.id == id, "another container");
        ensure!(bed.cri.pod_status(&bed.pod[..12]).await?.id == bed.pod, "another pod");
        Ok(())
    });
}

/// A container with two labels.
fn labelled(name: &str, tier: &str) -> v1::ContainerConfig {
    let labels = [("app", "a"), ("tier", tier)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    v1::ContainerConfig {
        labels,
        ..sleeper(name)
    }
}

#[test]
fn e2_filters_are_anded_and_an_unknown_id_matches_nothing() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let one = bed.run(&labelled("one", "x")).await?;
        let two = bed.create(&labelled("two", "y")).await?;
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let running = Some(v1::ContainerStateValue {
            state: v1::ContainerState::ContainerRunning.into(),
        });
        let (none, all) = (v1::ContainerFilter::default, vec![one.as_str(), two.as_str()]);
        for (what, filter, expected) in [
            ("no filter", none(), all.clone()),
            (
                "a label",
                v1::ContainerFilter {
                    label_selector: labels(&[("app", "a")]),
                    ..none()
                },
                all.clone(),
            ),
            (
                "two labels",
                v1::ContainerFilter {
                    label_selector: labels(&[("app", "a"), ("tier", "y")]),
                    ..none()
                },
                vec![&two],
            ),
            (
                "the state",
                v1::ContainerFilter {
                    state: running,
                    ..none()
                },
                vec![&one],
            ),
            (
                "id and state",
                v1::ContainerFilter {
                    id: two.clone(),
                    state: running,
                    ..none()
                },
                vec![],
            ),
            (
                "the pod",
                v1::ContainerFilter {
                    pod_sandbox_id: bed.pod.clone(),
                    ..none()
                },
                all.clone(),
            ),
            (
                "an unknown id",
                v1::ContainerFilter {
                    id: "f".repeat(64),
                    ..none()
                },
                vec![],
            ),
            (
                "an unknown pod",
                v1::ContainerFilter {
                    pod_sandbox_id: "f".repeat(64),
                    ..none()
                },
                vec![],
            ),
        ] {
            let listed = bed.cri.containers(Some(filter)).await?;
            let mut ids: Vec<&str> = listed.iter().map(|container| container.id.as_str()).collect();
            let mut expected = expected;
            ids.sort_unstable();
            expected.sort_unstable();
            ensure!(ids == expected, "by {what}: {ids:?}, not {expected:?}");
        }
        pod_filters(&bed).await
    });
}

async fn pod_filters(bed: &Bed) -> Result<()> {
    let pods = bed
        .cri
        .pods(Some(v1::PodSandboxFilter {
            id: "f".repeat(64),
            ..Default::default()
        }))
        .await?;
    ensure!(pods.is_empty(), "unknown pod in the pod list");
    let ready = v1::PodSandboxStateValue {
        state: v1::PodSandboxState::SandboxReady.into(),
    };
    ensure!(
        bed.cri
            .pods(Some(v1::PodSandboxFilter {
                state: Some(ready),
                ..Default::default()
            }))
            .await?
            .len()
            == 1,
        "ready pods"
    );
    Ok(())
}

#[test]
fn e7_mounts_come_back_as_they_were_given() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let host = node.dir().join("termination-log");
        std::fs::write(&host, "")?;
        let mut config = container(
            "main",
            BUSYBOX,
            &["sh", "-c", "echo why > /dev/termination-log; exit 3"],
        );
        config.mounts.push(v1::Mount {
            container_path: "/dev/termination-log".into(),
            host_path: host.to_string_lossy().into_owned(),
            ..Default::default()
        });
        let (status, _) = bed.run_to_end(&config).await?;
        ensure!(status.mounts.len() == 1, "{:?}", status.mounts);
        ensure!(
            status.mounts[0].container_path == "/dev/termination-log",
            "{:?}",
            status.mounts
        );
        ensure!(
            status.mounts[0].host_path == config.mounts[0].host_path,
            "{:?}",
            status.mounts
        );
        ensure!(
            std::fs::read_to_string(&host)? == "why\n",
            "the termination message is not there"
        );
        Ok(())
    });
}

#[test]
fn e9_verbose_info_is_json_with_pid_and_spec() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let answer = bed.cri.container_status_whole(&id).await?;
        let info: serde_json::Value = serde_json::from_str(answer.info.get("info").map_or("", String::as_str))?;
        ensure!(info["pid"].as_i64().is_some_and(|pid| pid > 1), "pid {}", info["pid"]);
        ensure!(
            info["runtimeSpec"]["process"]["args"][0] == "/bin/sh",
            "spec {}",
            info["runtimeSpec"]
        );
        let answer = bed.cri.pod_status_whole(&bed.pod).await?;
        for (key, value) in &answer.info {
            ensure!(
                serde_json::from_str::<serde_json::Value>(value).is_ok(),
                "{key} is not JSON: {value}"
            );
        }
        ensure!(!answer.info.is_empty(), "no info about the pod");
        Ok(())
    });
}
