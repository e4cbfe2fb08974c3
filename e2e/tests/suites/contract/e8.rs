//! E8: images, disk, stats.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::resources;
use e2e::limits::Kernel;
use e2e::{Bed, Options, container, test, test_with};
use proto::cri as v1;

#[test]
fn e8_pinned_images_are_told_and_can_still_be_removed() {
    test_with(
        Options {
            config: format!("image:\n  pinned: [{BUSYBOX:?}]\n"),
            ..Options::default()
        },
        async |node| -> Result<()> {
            let cri = node.cri();
            cri.pull(BUSYBOX).await?;
            cri.pull("127.0.0.1:5000/busybox:2").await?;
            for image in cri.image_list().await? {
                let pinned = image.repo_tags.iter().any(|tag| tag == BUSYBOX);
                ensure!(image.pinned == pinned, "{image:?}");
            }
            cri.remove_image(BUSYBOX).await?;
            ensure!(cri.image(BUSYBOX).await?.is_none(), "still there");
            Ok(())
        },
    );
}

#[test]
fn e8_the_working_set_is_usage_without_inactive_files() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        // 20 MB of page cache, most of it inactive, and a process that then rests.
        let line = "head -c 20000000 /dev/zero >/big; sync; echo ready; sleep 1000";
        let mut config = container("main", BUSYBOX, &["sh", "-c", line]);
        resources(&mut config).memory_limit_in_bytes = 200 << 20;
        let id = bed.run(&config).await?;
        e2e::logs::wait_for(&e2e::logs::path(&bed.config, &config), "ready").await?;
        let kernel = Kernel::of(node, &bed.cri, &id).await?;
        e2e::wait::until(
            "the stats are those of the cgroup",
            Duration::from_secs(10),
            async || {
                let memory = bed.cri.stats(&id).await?.memory.context("no memory")?;
                let told = memory.working_set_bytes.context("no working set")?.value;
                let (working, inactive) = kernel.working_set()?;
                ensure!(inactive > 10 << 20, "only {inactive} bytes are inactive");
                // Nothing runs in it; the kernel's own counters are a few pages late.
                Ok((told.abs_diff(working) < 1 << 20).then_some(()))
            },
        )
        .await
    });
}

#[test]
fn e8_times_of_stats_grow_and_cpu_never_goes_back() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed
            .run(&container("main", BUSYBOX, &["sh", "-c", "while :; do :; done"]))
            .await?;
        let mut last = (0, 0);
        for _ in 0..20 {
            let cpu = bed.cri.stats(&id).await?.cpu.context("no cpu")?;
            let now = (cpu.timestamp, cpu.usage_core_nano_seconds.context("no usage")?.value);
            ensure!(now.0 > last.0 && now.1 >= last.1, "{last:?} then {now:?}");
            last = now;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    });
}

#[test]
fn e8_a_container_that_ended_is_no_error_for_the_list() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let living = bed.sleeper("living").await?;
        // Ends while the list is being made, again and again.
        for round in 0..10 {
            let id = bed
                .run(&container(&format!("short{round}"), BUSYBOX, &["true"]))
                .await?;
            for _ in 0..3 {
                let listed = bed.cri.stats_list(None).await?;
                ensure!(
                    listed
                        .iter()
                        .any(|stats| stats.attributes.as_ref().is_some_and(|it| it.id == living)),
                    "the living one is not listed"
                );
            }
            bed.cri.remove(&id).await?;
        }
        Ok(())
    });
}

#[test]
fn e8_one_filesystem_is_told_for_images_and_for_containers() {
    test(async |node| -> Result<()> {
        let info = node
            .cri()
            .images
            .clone()
            .image_fs_info(v1::ImageFsInfoRequest {})
            .await?
            .into_inner();
        let (images, containers) = (
            info.image_filesystems.first().context("no image filesystem")?,
            info.container_filesystems.first().context("no container filesystem")?,
        );
        ensure!(images.fs_id == containers.fs_id, "{images:?} {containers:?}");
        let path = images.fs_id.clone().unwrap_or_default().mountpoint;
        // The kubelet asks the kernel for the size of this very path.
        node.sh(&format!("stat -f '{path}'"))?;
        Ok(())
    });
}

#[test]
fn e8_metrics_have_descriptors_and_counters_never_go_back() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.run(&container("main", BUSYBOX, &["sh", "-c", "while :; do :; done"]))
            .await?;
        let mut runtime = bed.cri.runtime.clone();
        let described: Vec<v1::MetricDescriptor> = runtime
            .list_metric_descriptors(v1::ListMetricDescriptorsRequest {})
            .await?
            .into_inner()
            .descriptors;
        ensure!(described.len() == 56, "{} descriptors", described.len());
        let mut last = std::collections::HashMap::new();
        for _ in 0..10 {
            let answer = runtime
                .list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {})
                .await?
                .into_inner();
            let pod = answer
                .pod_metrics
                .into_iter()
                .find(|it| it.pod_sandbox_id == bed.pod)
                .context("no metrics")?;
            let all = pod
                .metrics
                .iter()
                .chain(pod.container_metrics.iter().flat_map(|it| &it.metrics));
            for metric in all {
                let descriptor = described.iter().find(|it| it.name == metric.name);
                let descriptor = descriptor.with_context(|| format!("{} has no descriptor", metric.name))?;
                ensure!(
                    descriptor.label_keys.len() == metric.label_values.len(),
                    "{metric:?} {descriptor:?}"
                );
                if metric.metric_type() == v1::MetricType::Counter {
                    let key = (metric.name.clone(), metric.label_values.clone());
                    let value = metric.value.map_or(0, |value| value.value);
                    let before = last.insert(key, value).unwrap_or(0);
                    ensure!(value >= before, "{}: {before} then {value}", metric.name);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ensure!(last.values().any(|value| *value > 0), "no counter moved");
        Ok(())
    });
}
