//! Limits beside the usual ones: swap, huge pages, memory nodes, `unified`.

use anyhow::{Context, Result, ensure};
use e2e::bed::refused;
use e2e::catalog::BUSYBOX;
use e2e::config::{pod, resources};
use e2e::limits::{Kernel, is_v2};
use e2e::{Bed, Options, container, test, test_with};
use proto::cri as v1;
use tonic::Code;

fn sleeper(name: &str, limits: v1::LinuxContainerResources) -> v1::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["sleep", "100000"]);
    *resources(&mut config) = limits;
    config
}

#[test]
fn e7_a_memory_limit_without_a_word_about_swap_leaves_no_swap() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for (name, swap, wanted) in [
            ("none", 0, Some(0)),
            ("some", 96 << 20, Some(32 << 20)),
            ("unlimited", -1, None),
        ] {
            let id = bed
                .run(&sleeper(
                    name,
                    v1::LinuxContainerResources {
                        memory_limit_in_bytes: 64 << 20,
                        memory_swap_limit_in_bytes: swap,
                        ..Default::default()
                    },
                ))
                .await?;
            let kernel = Kernel::of(node, &bed.cri, &id).await?;
            ensure!(kernel.memory()? == Some(64 << 20), "{name}: {:?}", kernel.memory()?);
            let found = kernel.swap()?.context("this kernel counts no swap")?;
            ensure!(found == wanted, "{name}: {found:?}");
        }
        refused(
            bed.create(&sleeper(
                "below",
                v1::LinuxContainerResources {
                    memory_limit_in_bytes: 64 << 20,
                    memory_swap_limit_in_bytes: 32 << 20,
                    ..Default::default()
                },
            ))
            .await,
            Code::InvalidArgument,
            &["memory_swap_limit_in_bytes"],
        )
    });
}

#[test]
fn e7_cpus_and_memory_nodes_are_pinned_as_the_kubelet_sends_them() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let pinned = v1::LinuxContainerResources {
            cpuset_cpus: "0".into(),
            cpuset_mems: "0".into(),
            ..Default::default()
        };
        let id = bed.run(&sleeper("main", pinned)).await?;
        let kernel = Kernel::of(node, &bed.cri, &id).await?;
        let found = (kernel.cpus()?, kernel.mems()?);
        ensure!(found == ("0".to_owned(), "0".to_owned()), "{found:?}");
        let seen = bed
            .cri
            .sh(&id, "grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status")
            .await?;
        ensure!(seen.lines().all(|line| line.ends_with("\t0")), "{seen}");
        for bad in ["0;1", "4096", "9-1"] {
            let limits = v1::LinuxContainerResources {
                cpuset_cpus: bad.into(),
                ..Default::default()
            };
            refused(
                bed.run(&sleeper("bad", limits)).await,
                Code::InvalidArgument,
                &["cpuset"],
            )?;
        }
        Ok(())
    });
}

#[test]
fn e7_huge_pages_are_limited_where_the_host_can() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let huge = |size: &str, limit: u64| v1::LinuxContainerResources {
            hugepage_limits: vec![v1::HugepageLimit {
                page_size: size.into(),
                limit,
            }],
            ..Default::default()
        };
        let id = bed.run(&sleeper("main", huge("2MB", 4 << 20))).await?;
        if let Some(found) = Kernel::of(node, &bed.cri, &id).await?.huge_pages("2MB")? {
            ensure!(found == Some(4 << 20), "{found:?}");
        }
        for bad in ["", "2", "2MB/../x", "MB"] {
            refused(
                bed.run(&sleeper("bad", huge(bad, 0))).await,
                Code::InvalidArgument,
                &["page size"],
            )?;
        }
        Ok(())
    });
}

#[test]
fn e7_unified_names_files_of_controllers_and_needs_cgroup_v2() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let unified = |name: &str, value: &str| v1::LinuxContainerResources {
            unified: [(name.to_owned(), value.to_owned())].into(),
            ..Default::default()
        };
        for bad in ["../memory.high", "cgroup.procs", ""] {
            refused(
                bed.create(&sleeper("bad", unified(bad, "1"))).await,
                Code::InvalidArgument,
                &["unified"],
            )?;
        }
        let answer = bed.run(&sleeper("main", unified("memory.high", "67108864"))).await;
        if !is_v2() {
            return refused(answer, Code::Unimplemented, &["unified", "memory"]);
        }
        let id = answer?;
        let kernel = Kernel::of(node, &bed.cri, &id).await?;
        let found = kernel.file("memory", "memory.high")?;
        ensure!(found.as_deref() == Some("67108864"), "{found:?}");
        // Beside a limit of CRI, and in its place.
        let mut limits = unified("memory.min", "4194304");
        limits.memory_limit_in_bytes = 64 << 20;
        for (name, value) in [
            ("memory.low", "8388608"),
            ("pids.max", "17"),
            ("memory.swap.max", "max"),
        ] {
            limits.unified.insert(name.into(), value.into());
        }
        let id = bed.run(&sleeper("more", limits)).await?;
        let kernel = Kernel::of(node, &bed.cri, &id).await?;
        ensure!(kernel.pids()? == Some(17), "pids.max is {:?}", kernel.pids()?);
        ensure!(
            kernel.memory()? == Some(64 << 20),
            "memory.max is {:?}",
            kernel.memory()?
        );
        for (name, wanted) in [("memory.min", "4194304"), ("memory.low", "8388608")] {
            let found = kernel.file("memory", name)?;
            ensure!(found.as_deref() == Some(wanted), "{name} is {found:?}");
        }
        if let Some(swap) = kernel.swap()? {
            ensure!(swap.is_none(), "memory.swap.max is {swap:?}");
        }
        refused(
            bed.run(&sleeper("no-file", unified("memory.none-such", "1"))).await,
            Code::InvalidArgument,
            &["memory.none-such"],
        )
    });
}

const LEAST: &str = "
handlers:
  careless:
    container_min_memory: 0
  careful:
    container_min_memory: 8388608
";

#[test]
fn a_memory_limit_under_which_nothing_starts_is_refused_and_what_is_taken_starts() {
    let options = Options {
        config: LEAST.into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        let limited = |name: &str, bytes: i64| {
            let mut config = sleeper(name, v1::LinuxContainerResources::default());
            resources(&mut config).memory_limit_in_bytes = bytes;
            config
        };
        // Whether it is taken, at the limit and a byte below.
        for (handler, least) in [("", 1 << 20), ("careful", 8 << 20)] {
            let sandbox = pod(node, "pod");
            let id = cri.run_pod_with(&sandbox, handler).await?;
            let words = ["memory_limit_in_bytes", "container_min_memory"];
            refused(
                cri.create(&id, &limited("below", least - 1), &sandbox).await,
                Code::InvalidArgument,
                &words,
            )?;
            let main = cri.run(&id, &limited("main", least), &sandbox).await?;
            ensure!(
                cri.sh(&main, "echo runs").await? == "runs\n",
                "{handler:?} does not run"
            );
        }
        // Who asks for it may try.
        let sandbox = pod(node, "pod");
        let id = cri.run_pod_with(&sandbox, "careless").await?;
        cri.create(&id, &limited("tiny", 128 << 10), &sandbox).await?;
        Ok(())
    });
}

#[test]
fn a_resize_below_the_least_memory_is_refused_and_changes_nothing() {
    let options = Options {
        config: LEAST.into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        for (handler, least) in [("", 1 << 20), ("careful", 8 << 20)] {
            let sandbox = pod(node, "pod");
            let id = cri.run_pod_with(&sandbox, handler).await?;
            let limits = |memory: i64, shares: i64| v1::LinuxContainerResources {
                memory_limit_in_bytes: memory,
                cpu_shares: shares,
                ..Default::default()
            };
            let main = cri.run(&id, &sleeper("main", limits(64 << 20, 512)), &sandbox).await?;
            let resize = async |memory: i64, shares: i64| {
                let request = v1::UpdateContainerResourcesRequest {
                    container_id: main.clone(),
                    linux: Some(limits(memory, shares)),
                    ..Default::default()
                };
                cri.runtime.clone().update_container_resources(request).await
            };
            let before = cri.container_status(&main).await?.resources;
            let kernel = Kernel::of(node, &cri, &main).await?;
            let words = ["memory_limit_in_bytes", "container_min_memory", &least.to_string()];
            refused(resize(least - 1, 1024).await, Code::InvalidArgument, &words)?;
            // The other half of the request is not done either.
            ensure!(kernel.memory()? == Some(64 << 20), "{:?}", kernel.memory()?);
            ensure!(kernel.has_shares(512)?, "the shares have changed");
            ensure!(
                cri.container_status(&main).await?.resources == before,
                "the status tells another"
            );
            resize(16 << 20, 1024).await?;
            ensure!(kernel.memory()? == Some(16 << 20), "{:?}", kernel.memory()?);
            ensure!(kernel.has_shares(1024)?, "the shares have not changed");
        }
        Ok(())
    });
}
