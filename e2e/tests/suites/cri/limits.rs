//! Limits beside the usual ones: swap, huge pages, memory nodes, `unified`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::bed::refused;
use e2e::catalog::BUSYBOX;
use e2e::config::resources;
use e2e::{Bed, Node, container, test};
use proto::cri as v1;
use tonic::Code;

/// A file of a controller in the cgroup of a container; None where this host has no such controller or file.
async fn file(node: &Node, bed: &Bed, id: &str, controller: &str, name: &str) -> Result<Option<String>> {
    let pid = bed.cri.container_pid(id).await?;
    let cgroups = std::fs::read_to_string(node.inside(Path::new(&format!("/proc/{pid}/cgroup"))))?;
    for line in cgroups.lines() {
        let parts: Vec<&str> = line.splitn(3, ':').collect();
        let [_, names, path] = parts[..] else { continue };
        let mounts: &[&str] = match names {
            "" => &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
            names if names.split(',').any(|n| n == controller) => &[&format!("/sys/fs/cgroup/{controller}")],
            _ => continue,
        };
        for mount in mounts {
            if let Ok(text) = std::fs::read_to_string(format!("{mount}{path}/{name}")) {
                return Ok(Some(text.trim().to_owned()));
            }
        }
    }
    Ok(None)
}

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
            ("none", 0, 64_i64 << 20),
            ("some", 96 << 20, 96 << 20),
            ("unlimited", -1, i64::MAX),
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
            if let Some(text) = file(node, &bed, &id, "memory", "memory.memsw.limit_in_bytes").await? {
                let found: i64 = text.parse()?;
                // "No limit" is the largest multiple of a page.
                ensure!(
                    found == wanted || (wanted == i64::MAX && found > i64::MAX - 8192),
                    "{name}: {found}"
                );
            } else {
                let found = file(node, &bed, &id, "memory", "memory.swap.max").await?;
                let found = found.context("neither memsw nor swap.max")?;
                let least = match swap {
                    0 => "0".to_owned(),
                    -1 => "max".to_owned(),
                    swap => (swap - (64 << 20)).to_string(),
                };
                ensure!(found == least, "{name}: {found}");
            }
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
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let found = file(node, &bed, &id, "cpuset", name).await?;
            ensure!(found.as_deref() == Some("0"), "{name}: {found:?}");
        }
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
        for name in ["hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"] {
            if let Some(found) = file(node, &bed, &id, "hugetlb", name).await? {
                ensure!(found == (4 << 20).to_string(), "{name}: {found}");
            }
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
        if Path::new("/sys/fs/cgroup/memory").is_dir() {
            refused(answer, Code::Unimplemented, &["unified", "memory"])
        } else {
            let found = file(node, &bed, &answer?, "memory", "memory.high").await?;
            ensure!(found.as_deref() == Some("67108864"), "{found:?}");
            Ok(())
        }
    });
}
