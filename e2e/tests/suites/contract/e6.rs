//! E6: sandbox and network.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::{pod_in_cgroup, pod_namespaces, resources, security};
use e2e::limits::Kernel;
use e2e::{Bed, container, pod, sleeper, test};
use proto::cri as v1;

use super::wrapped;

#[test]
fn e6_the_address_survives_a_restart() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let before = bed.cri.pod_status(&bed.pod).await?;
        ensure!(
            before.network.as_ref().is_some_and(|network| !network.ip.is_empty()),
            "{before:?}"
        );
        let after = node.restart().await?.pod_status(&bed.pod).await?;
        ensure!(
            after.network == before.network && after.linux == before.linux,
            "{before:?} {after:?}"
        );
        Ok(())
    });
}

#[test]
fn e6_a_pod_that_is_not_ready_stays_listed_with_its_attempt() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| config.metadata.get_or_insert_default().attempt = 3).await?;
        bed.cri.stop_pod(&bed.pod).await?;
        let mut next = bed.config.clone();
        next.metadata.get_or_insert_default().attempt = 4;
        let second = bed.cri.run_pod(&next).await?;
        let listed = bed.cri.pods(None).await?;
        let state = |id: &str| listed.iter().find(|pod| pod.id == id).map(v1::PodSandbox::state);
        ensure!(
            state(&bed.pod) == Some(v1::PodSandboxState::SandboxNotready)
                && state(&second) == Some(v1::PodSandboxState::SandboxReady),
            "{listed:?}"
        );
        let attempts: Vec<u32> = listed
            .iter()
            .filter_map(|pod| Some(pod.metadata.as_ref()?.attempt))
            .collect();
        ensure!(attempts.contains(&3) && attempts.contains(&4), "{attempts:?}");
        Ok(())
    });
}

#[test]
fn e6_a_status_has_a_time_only_together_with_its_containers() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.sleeper("main").await?;
        let status = bed.cri.pod_status_whole(&bed.pod).await?;
        ensure!(
            (status.timestamp == 0) == status.containers_statuses.is_empty(),
            "time {} with {} containers",
            status.timestamp,
            status.containers_statuses.len()
        );
        Ok(())
    });
}

#[test]
fn e6_the_two_conditions_are_there_and_no_other_says_not_ready() {
    test(async |node| -> Result<()> {
        let status = node.cri().status().await?.status.context("no status")?;
        let names: Vec<&str> = status.conditions.iter().map(|it| it.r#type.as_str()).collect();
        for name in ["RuntimeReady", "NetworkReady"] {
            ensure!(names.iter().filter(|it| **it == name).count() == 1, "{names:?}");
        }
        ensure!(status.conditions.iter().all(|it| it.status), "{:?}", status.conditions);
        Ok(())
    });
}

#[test]
fn e6_with_the_hosts_network_the_kubelets_dns_is_used_all_the_same() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| {
            pod_namespaces(config).network = v1::NamespaceMode::Node.into();
            config.hostname.clear();
            config.dns_config = Some(v1::DnsConfig {
                servers: vec!["10.96.7.7".into()],
                searches: vec!["svc.example".into()],
                options: vec!["ndots:5".into()],
            });
        })
        .await?;
        let mut config = container("main", BUSYBOX, &["cat", "/etc/resolv.conf"]);
        security(&mut config).namespace_options.get_or_insert_default().network = v1::NamespaceMode::Node.into();
        let text = bed.output_of(&config).await?;
        ensure!(
            text.contains("10.96.7.7") && text.contains("svc.example") && text.contains("ndots:5"),
            "{text}"
        );
        Ok(())
    });
}

#[test]
fn e6_the_pods_files_are_read_only_where_the_root_is() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for (name, readonly) in [("open", false), ("closed", true)] {
            let line = "for f in /etc/resolv.conf /etc/hostname; do (echo >>$f) 2>/dev/null && echo written || echo refused; done";
            let mut config = container(name, BUSYBOX, &["sh", "-c", line]);
            security(&mut config).readonly_rootfs = readonly;
            let text = bed.output_of(&config).await?;
            let word = if readonly { "refused" } else { "written" };
            ensure!(text.lines().all(|line| line == word), "{name}: {text}");
        }
        Ok(())
    });
}

#[test]
fn e6_the_hostname_is_in_the_environment() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| config.hostname = "mast-3".into()).await?;
        let text = bed
            .output_of(&container("main", BUSYBOX, &["sh", "-c", "echo $HOSTNAME; hostname"]))
            .await?;
        ensure!(text == "mast-3\nmast-3\n", "{text:?}");
        Ok(())
    });
}

#[test]
fn e6_a_long_hostname_of_64_characters_is_taken() {
    test(async |node| -> Result<()> {
        let name = format!("{}.{}", "a".repeat(40), "b".repeat(23));
        let bed = Bed::with(node, |config| config.hostname.clone_from(&name)).await?;
        ensure!(
            bed.output_of(&container("main", BUSYBOX, &["hostname"])).await? == format!("{name}\n"),
            "another name"
        );
        Ok(())
    });
}

#[test]
fn e6_shm_has_its_flags_and_mode() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let line = "grep ' /dev/shm ' /proc/self/mounts; stat -c %a /dev/shm";
        let text = bed.output_of(&container("main", BUSYBOX, &["sh", "-c", line])).await?;
        for word in ["tmpfs", "nosuid", "nodev", "noexec", "1777"] {
            ensure!(text.contains(word), "{word} is not in {text}");
        }
        Ok(())
    });
}

#[test]
fn e6_plugins_are_told_the_pod_and_asked_in_order() {
    test(async |node| -> Result<()> {
        let calls = node.dir().join("calls");
        let line = format!(
            "echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS\" >>{}",
            calls.display()
        );
        wrapped(node, "1.0.0", &line).await?;
        let bed = Bed::new(node).await?;
        bed.cri.stop_pod(&bed.pod).await?;
        let text = fs::read_to_string(&calls)?;
        let uid = &bed.config.metadata.as_ref().context("no metadata")?.uid;
        let add = text.lines().find(|line| line.starts_with("ADD ")).context("no ADD")?;
        for word in [
            format!("ADD {} eth0 ", bed.pod),
            "IgnoreUnknown=1".into(),
            "K8S_POD_NAMESPACE=e2e".into(),
            "K8S_POD_NAME=pod".into(),
            format!("K8S_POD_INFRA_CONTAINER_ID={}", bed.pod),
            format!("K8S_POD_UID={uid}"),
        ] {
            ensure!(add.contains(&word), "{word} is not in {add}");
        }
        let del = text.lines().find(|line| line.starts_with("DEL ")).context("no DEL")?;
        ensure!(del.strip_prefix("DEL") == add.strip_prefix("ADD"), "{add} but {del}");
        Ok(())
    });
}

#[test]
fn e6_an_add_that_fails_is_followed_by_del_and_leaves_no_namespace() {
    test(async |node| -> Result<()> {
        let calls = node.dir().join("calls");
        let line = format!(
            "echo $CNI_COMMAND >>{}; [ $CNI_COMMAND != ADD ] || {{ echo '{{\"cniVersion\":\"1.0.0\",\"code\":100,\"msg\":\"no\"}}'; exit 1; }}",
            calls.display()
        );
        wrapped(node, "1.0.0", &line).await?;
        let cri = node.cri();
        ensure!(cri.run_pod(&pod(node, "pod")).await.is_err(), "a pod without network");
        let text = fs::read_to_string(&calls)?;
        let order: Vec<&str> = text.lines().filter(|word| matches!(*word, "ADD" | "DEL")).collect();
        let (first, rest) = order.split_first().context("nothing was asked")?;
        // DEL may be repeated; it never fails for what is gone.
        ensure!(
            *first == "ADD" && !rest.is_empty() && rest.iter().all(|word| *word == "DEL"),
            "{order:?}"
        );
        ensure!(
            node.sh("ls /run/netns 2>/dev/null || true")?.is_empty(),
            "a namespace stayed"
        );
        ensure!(cri.pods(None).await?.is_empty(), "a pod stayed");
        Ok(())
    });
}

#[test]
fn e6_a_delete_that_fails_is_repeated_until_it_succeeds() {
    test(async |node| -> Result<()> {
        let (flag, calls) = (node.dir().join("refuse"), node.dir().join("calls"));
        let line = format!(
            "echo $CNI_COMMAND >>{}; [ $CNI_COMMAND != DEL ] || [ ! -e {} ] || {{ echo '{{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"try again\"}}'; exit 1; }}",
            calls.display(),
            flag.display()
        );
        wrapped(node, "1.0.0", &line).await?;
        let bed = Bed::new(node).await?;
        fs::write(&flag, "")?;
        // The stop fails with the plugin's words as often as it is tried, and so does the removal; the pod is known
        // until its network is gone.
        let code = if node.ours() {
            tonic::Code::ResourceExhausted
        } else {
            tonic::Code::Unknown
        };
        for _ in 0..2 {
            e2e::refused(bed.cri.stop_pod(&bed.pod).await, code, &["try again"])?;
            e2e::refused(bed.cri.remove_pod(&bed.pod).await, code, &["try again"])?;
            let state = bed.cri.pod_status(&bed.pod).await?.state();
            ensure!(state == v1::PodSandboxState::SandboxNotready, "{state:?}");
        }
        let tried = fs::read_to_string(&calls)?
            .lines()
            .filter(|word| *word == "DEL")
            .count();
        ensure!(tried >= 1, "DEL was not asked");
        fs::remove_file(&flag)?;
        bed.cri.stop_pod(&bed.pod).await?;
        bed.cri.remove_pod(&bed.pod).await?;
        e2e::wait::until("the address is given back", Duration::from_secs(20), async || {
            let left = fs::read_dir(node.dir().join("ipam/e2e"))?
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("10."))
                .count();
            Ok((left == 0).then_some(()))
        })
        .await
    });
}

#[test]
fn e6_a_plugin_that_says_it_is_not_ready_makes_the_network_not_ready() {
    test(async |node| -> Result<()> {
        let flag = node.dir().join("refuse");
        let line = format!(
            "[ $CNI_COMMAND != STATUS ] || [ ! -e {} ] || {{ echo '{{\"cniVersion\":\"1.1.0\",\"code\":50,\"msg\":\"the rope is wet\"}}'; exit 1; }}",
            flag.display()
        );
        fs::write(&flag, "")?;
        wrapped(node, "1.1.0", &line).await?;
        let cri = node.cri();
        let network = async || -> Result<v1::RuntimeCondition> {
            let conditions = cri.status().await?.status.unwrap_or_default().conditions;
            conditions
                .into_iter()
                .find(|it| it.r#type == "NetworkReady")
                .context("no NetworkReady")
        };
        let not_yet = network().await?;
        ensure!(
            !not_yet.status && not_yet.message.contains("the rope is wet"),
            "{not_yet:?}"
        );
        fs::remove_file(&flag)?;
        e2e::wait::until("the network is ready", Duration::from_secs(15), async || {
            Ok(network().await?.status.then_some(()))
        })
        .await
    });
}

#[test]
fn e6_gc_is_asked_at_the_start() {
    test(async |node| -> Result<()> {
        let calls = node.dir().join("calls");
        let line = format!(
            "if [ $CNI_COMMAND = GC ]; then cat >{0}.conf; echo GC >>{0}; exit 0; fi",
            calls.display()
        );
        wrapped(node, "1.1.0", &line).await?;
        let bed = Bed::new(node).await?;
        fs::remove_file(&calls).ok();
        node.restart().await?;
        e2e::wait::until("GC is asked", Duration::from_secs(10), async || {
            Ok(fs::read_to_string(&calls).ok().filter(|text| text.contains("GC")))
        })
        .await?;
        let conf: serde_json::Value = serde_json::from_str(&fs::read_to_string(calls.with_extension("conf"))?)?;
        let valid = conf["cni.dev/valid-attachments"].to_string();
        ensure!(valid.contains(&bed.pod), "the pod that lives is not among {valid}");
        Ok(())
    });
}

#[test]
fn e6_no_limits_are_set_on_the_pods_cgroup() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        let mut config = pod_in_cgroup(node, "pod");
        // What the kubelet adds up for information; the limits it writes itself.
        let linux = config.linux.get_or_insert_default();
        linux.resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        });
        let id = cri.run_pod(&config).await?;
        let mut main = sleeper("main");
        resources(&mut main).memory_limit_in_bytes = 32 << 20;
        let container = cri.run(&id, &main, &config).await?;
        let own = Kernel::of(node, &cri, &container).await?;
        ensure!(
            own.memory()? == Some(32 << 20),
            "the container's limit is {:?}",
            own.memory()?
        );
        let parent = own.parent()?;
        let (_, path) = e2e::cgroups::parent(node, "pod");
        ensure!(
            parent.dir("memory")?.ends_with(path.trim_start_matches('/')),
            "{parent:?} is not {path}"
        );
        ensure!(parent.memory()?.is_none(), "the pod's limit is {:?}", parent.memory()?);
        Ok(())
    });
}
