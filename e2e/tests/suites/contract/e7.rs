//! E7: the container's spec.

use anyhow::{Context, Result, ensure};
use e2e::bed::refused;
use e2e::catalog::BUSYBOX;
use e2e::config::{resources, security};
use e2e::limits::Kernel;
use e2e::{Bed, container, logs, sleeper, test};
use proto::cri as v1;

use serde_json::json;
use tonic::Code;

use super::image;

async fn resize(bed: &Bed, id: &str, resources: v1::LinuxContainerResources) -> e2e::cri::Answer<()> {
    let request = v1::UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(resources),
        ..Default::default()
    };
    bed.cri
        .runtime
        .clone()
        .update_container_resources(request)
        .await
        .map(drop)
}

#[test]
fn e7_a_resize_takes_effect_and_is_told_as_it_was_asked() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = sleeper("main");
        let first = resources(&mut config);
        (first.cpu_period, first.cpu_quota, first.cpu_shares) = (100_000, 50_000, 512);
        first.memory_limit_in_bytes = 64 << 20;
        let mut wanted = first.clone();
        let id = bed.run(&config).await?;
        // Up, then down again.
        for (quota, shares, memory) in [(150_000, 1024, 128 << 20), (20_000, 205, 48 << 20)] {
            (wanted.cpu_quota, wanted.cpu_shares, wanted.memory_limit_in_bytes) = (quota, shares, memory);
            resize(&bed, &id, wanted.clone()).await?;
            let kernel = Kernel::of(node, &bed.cri, &id).await?;
            let found = (kernel.quota()?, kernel.memory()?);
            ensure!(
                found == ((Some(u64::try_from(quota)?), 100_000), Some(u64::try_from(memory)?)),
                "the kernel has other limits: {found:?}"
            );
            ensure!(
                kernel.has_shares(u64::try_from(shares)?)?,
                "the kernel has another weight than {shares}"
            );
            let told = bed
                .cri
                .container_status(&id)
                .await?
                .resources
                .and_then(|it| it.linux)
                .context("none told")?;
            ensure!(
                (told.cpu_quota, told.cpu_shares, told.memory_limit_in_bytes) == (quota, shares, memory)
                    && told.cpu_period == 100_000,
                "{told:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn e7_a_memory_limit_below_the_usage_is_refused_and_nobody_dies() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let line = "x=$(head -c 12000000 /dev/zero | tr '\\0' a); echo ready; while :; do sleep 0.2; done";
        let mut config = container("main", BUSYBOX, &["sh", "-c", line]);
        resources(&mut config).memory_limit_in_bytes = 256 << 20;
        let mut less = resources(&mut config).clone();
        let id = bed.run(&config).await?;
        logs::wait_for(&logs::path(&bed.config, &config), "ready").await?;
        less.memory_limit_in_bytes = 8 << 20;
        let refused = resize(&bed, &id, less).await;
        ensure!(
            refused
                .as_ref()
                .is_err_and(|status| status.message().contains("memory")),
            "{refused:?}"
        );
        let status = bed.cri.container_status(&id).await?;
        ensure!(status.state() == v1::ContainerState::ContainerRunning, "{status:?}");
        let kernel = Kernel::of(node, &bed.cri, &id).await?;
        ensure!(kernel.memory()? == Some(256 << 20), "the limit was changed");
        Ok(())
    });
}

#[test]
fn e7_an_empty_list_of_masked_paths_means_none() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let line = "head -c 4 /proc/timer_list | wc -c; grep -c ' /proc/sys ' /proc/self/mounts";
        let mut masked = container("masked", BUSYBOX, &["sh", "-c", line]);
        security(&mut masked).masked_paths = vec!["/proc/timer_list".into()];
        let (_, lines) = bed.run_to_end(&masked).await?;
        let text = logs::joined(&lines, "stdout");
        ensure!(text == "0\n1\n", "masked: {text:?}");
        let mut open = container("open", BUSYBOX, &["sh", "-c", line]);
        security(&mut open).masked_paths.clear();
        security(&mut open).readonly_paths.clear();
        let (_, lines) = bed.run_to_end(&open).await?;
        let text = logs::joined(&lines, "stdout");
        ensure!(text == "4\n0\n", "unmasked: {text:?}");
        Ok(())
    });
}

#[test]
fn e7_names_of_capabilities_with_and_without_prefix_are_the_same() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut seen = Vec::new();
        for (name, capability) in [
            ("without", "SYS_TIME"),
            ("with", "CAP_SYS_TIME"),
            ("small", "cap_sys_time"),
        ] {
            let mut config = container(name, BUSYBOX, &["grep", "CapEff", "/proc/self/status"]);
            let capabilities = security(&mut config).capabilities.get_or_insert_default();
            capabilities.drop_capabilities = vec!["ALL".into()];
            capabilities.add_capabilities = vec![capability.into()];
            seen.push(bed.output_of(&config).await?);
        }
        ensure!(
            seen.iter().all(|text| text.trim_end().ends_with("0000000002000000")),
            "{seen:?}"
        );
        Ok(())
    });
}

#[test]
fn e7_a_volume_of_the_image_begins_with_its_files_and_is_not_in_the_root() {
    test(async |node| -> Result<()> {
        let (_registry, name) = image(
            node,
            json!({"Env": ["PATH=/bin"], "Volumes": {"/data": {}, "/made/deep": {}}}),
        )?;
        let bed = Bed::new(node).await?;
        bed.cri.pull(&name).await?;
        let line = "cat /data/from-image; touch /data/new /made/deep/new && echo written; grep -c ' /data \\| /made/deep ' /proc/self/mounts";
        for attempt in ["one", "two"] {
            let mut config = container(attempt, &name, &["sh", "-c", line]);
            security(&mut config).readonly_rootfs = true;
            let text = bed.output_of(&config).await?;
            // Of its own for each container: the second finds what the image has.
            ensure!(text == "from the image\nwritten\n2\n", "{attempt}: {text:?}");
        }
        Ok(())
    });
}

#[test]
fn e7_recursive_read_only_reaches_every_mount_below() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let host = node.dir().join("volume");
        std::fs::create_dir_all(host.join("inner"))?;
        node.sh(&format!("mount -t tmpfs tmpfs {}/inner", host.display()))?;
        let mount = v1::Mount {
            container_path: "/v".into(),
            host_path: host.to_string_lossy().into_owned(),
            readonly: true,
            ..Default::default()
        };
        let line = "touch /v/x 2>/dev/null && echo outer; touch /v/inner/x 2>/dev/null && echo inner; echo end";
        for (name, recursive, expected) in [("plain", false, "inner\nend\n"), ("recursive", true, "end\n")] {
            let mut config = container(name, BUSYBOX, &["sh", "-c", line]);
            config.mounts.push(v1::Mount {
                recursive_read_only: recursive,
                ..mount.clone()
            });
            let text = bed.output_of(&config).await?;
            ensure!(text == expected, "{name}: {text:?}");
        }
        for (readonly, propagation) in [
            (false, v1::MountPropagation::PropagationPrivate),
            (true, v1::MountPropagation::PropagationHostToContainer),
        ] {
            let mut config = container("refused", BUSYBOX, &["true"]);
            config.mounts.push(v1::Mount {
                recursive_read_only: true,
                readonly,
                propagation: propagation.into(),
                ..mount.clone()
            });
            refused(bed.create(&config).await, Code::InvalidArgument, &["recursive"])?;
        }
        node.sh(&format!("umount {}/inner", host.display()))?;
        Ok(())
    });
}
