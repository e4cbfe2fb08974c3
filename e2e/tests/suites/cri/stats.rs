//! E8: statistics.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::resources;
use e2e::limits::Kernel;
use e2e::{Bed, container, sleeper, test, wait};
use proto::cri as v1;

#[test]
fn e8_cpu_grows_and_memory_is_told() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "while :; do :; done"]);
        config.labels = [("app".to_owned(), "busy".to_owned())].into();
        resources(&mut config).memory_limit_in_bytes = 64 << 20;
        let id = bed.run(&config).await?;
        let cpu = |stats: &v1::ContainerStats| {
            stats
                .cpu
                .and_then(|cpu| cpu.usage_core_nano_seconds)
                .map(|value| value.value)
        };
        let first = bed.cri.stats(&id).await?;
        ensure!(
            first
                .attributes
                .as_ref()
                .is_some_and(|it| it.id == id && it.metadata == config.metadata && it.labels == config.labels),
            "{first:?}"
        );
        tokio::time::sleep(Duration::from_millis(600)).await;
        let second = bed.cri.stats(&id).await?;
        let (before, after) = (cpu(&first).context("no cpu")?, cpu(&second).context("no cpu")?);
        ensure!(after > before + 50_000_000, "{before} then {after}");
        ensure!(
            second.cpu.map(|it| it.timestamp) > first.cpu.map(|it| it.timestamp),
            "the time stands still"
        );
        let memory = second.memory.context("no memory")?;
        let working = memory.working_set_bytes.context("no working set")?.value;
        ensure!(memory.timestamp > 0 && working > 0 && working < 64 << 20, "{memory:?}");
        let available = memory
            .available_bytes
            .context("no available bytes under a limit")?
            .value;
        ensure!(
            available > 0 && available <= (64 << 20) - working + (1 << 20),
            "{memory:?}"
        );
        Ok(())
    });
}

#[test]
fn e8_swap_is_told_where_the_kernel_counts_it() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = sleeper("main");
        resources(&mut config).memory_limit_in_bytes = 64 << 20;
        resources(&mut config).memory_swap_limit_in_bytes = 96 << 20;
        let id = bed.run(&config).await?;
        let counted = Kernel::of(node, &bed.cri, &id).await?.swap()?;
        let told = bed.cri.stats(&id).await?.swap;
        ensure!(counted.is_some() == told.is_some(), "{counted:?} {told:?}");
        if let Some(swap) = told {
            let usage = swap.swap_usage_bytes.context("no usage")?.value;
            let available = swap.swap_available_bytes.context("nothing is available")?.value;
            ensure!(
                swap.timestamp > 0 && usage + available == 32 << 20,
                "of 32 MiB there are {swap:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn e8_the_writable_layer_is_told() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed
            .run(&container(
                "main",
                BUSYBOX,
                &["sh", "-c", "head -c 5000000 /dev/urandom > /big; sleep 100000"],
            ))
            .await?;
        wait::until("the usage is told", Duration::from_secs(30), async || {
            let layer = bed.cri.stats(&id).await?.writable_layer.unwrap_or_default();
            let used = layer.used_bytes.map_or(0, |value| value.value);
            Ok((used >= 5_000_000 && layer.timestamp > 0).then_some(()))
        })
        .await
    });
}

#[test]
fn e8_the_list_has_filters_and_survives_containers_that_ended() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = sleeper("one");
        config.labels = [("app".to_owned(), "a".to_owned())].into();
        let one = bed.run(&config).await?;
        let two = bed.sleeper("two").await?;
        let ended = bed.run(&container("ended", BUSYBOX, &["true"])).await?;
        bed.cri.exited(&ended).await?;
        bed.create(&sleeper("created")).await?;
        let ids = async |filter: Option<v1::ContainerStatsFilter>| -> Result<Vec<String>> {
            let stats = bed.cri.stats_list(filter).await?;
            Ok(stats
                .into_iter()
                .filter_map(|stats| stats.attributes)
                .map(|it| it.id)
                .collect())
        };
        let all = ids(None).await?;
        ensure!(all.contains(&one) && all.contains(&two), "{all:?}");
        let labels = v1::ContainerStatsFilter {
            label_selector: [("app".to_owned(), "a".to_owned())].into(),
            ..Default::default()
        };
        ensure!(ids(Some(labels)).await? == [one.clone()], "by label");
        ensure!(
            ids(Some(v1::ContainerStatsFilter {
                id: two.clone(),
                ..Default::default()
            }))
            .await?
                == [two],
            "by id"
        );
        ensure!(
            ids(Some(v1::ContainerStatsFilter {
                id: "f".repeat(64),
                ..Default::default()
            }))
            .await?
            .is_empty(),
            "unknown"
        );
        Ok(())
    });
}

#[test]
fn e8_the_image_filesystem_can_be_asked_for_its_size() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let read = async || -> Result<v1::FilesystemUsage> {
            let info = bed
                .cri
                .images
                .clone()
                .image_fs_info(v1::ImageFsInfoRequest {})
                .await?
                .into_inner();
            ensure!(
                !info.container_filesystems.is_empty() || !node.ours(),
                "no container filesystem"
            );
            info.image_filesystems.into_iter().next().context("no image filesystem")
        };
        let usage = wait::until("the usage is known", Duration::from_secs(30), async || {
            let usage = read().await?;
            Ok(usage
                .used_bytes
                .is_some_and(|value| value.value > 1_000_000)
                .then_some(usage))
        })
        .await?;
        let mountpoint = usage.fs_id.context("no fs_id")?.mountpoint;
        ensure!(
            std::path::Path::new(&mountpoint).exists(),
            "{mountpoint} does not exist"
        );
        ensure!(
            usage.timestamp > 0 && usage.inodes_used.is_some_and(|value| value.value > 10),
            "no time or inodes"
        );
        Ok(())
    });
}

#[test]
fn the_first_question_is_told_a_rate_and_a_second_client_the_same() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let config = container("main", BUSYBOX, &["sh", "-c", "while :; do :; done"]);
        let id = bed.run(&config).await?;
        let rate = async || -> Result<u64> {
            let cpu = bed.cri.stats(&id).await?.cpu.and_then(|cpu| cpu.usage_nano_cores);
            cpu.map(|value| value.value).context("no rate")
        };
        let mut rates = Vec::new();
        // A pair of questions that the machine has kept apart for longer than a rate holds says nothing.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let began = std::time::Instant::now();
            rates = vec![rate().await?, rate().await?];
            // A loop on a machine with little time left still has a share of one processor, and never more than one.
            ensure!((1_000_000..1_200_000_000).contains(&rates[0]), "{rates:?}");
            if began.elapsed() < Duration::from_millis(800) {
                break;
            }
            rates.clear();
        }
        ensure!(rates.first() == rates.last(), "another rate a moment later: {rates:?}");
        let pods = bed.cri.pod_stats_list().await?;
        let pod = pods.first().and_then(|pod| pod.linux.as_ref()?.cpu?.usage_nano_cores);
        ensure!(pod.is_some_and(|rate| rate.value > 1_000_000), "{pod:?}");
        // The next daemon is asked for the first time too.
        node.restart().await?;
        ensure!(rate().await? > 1_000_000, "nothing after a restart");
        Ok(())
    });
}
