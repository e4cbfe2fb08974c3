//! Which namespaces are shared with whom; sysctls.

use anyhow::{Result, ensure};
use e2e::config::{pod_namespaces, security};
use e2e::{Bed, Node, Options, sleeper, test, test_with};
use proto::cri as v1;
use v1::NamespaceMode::{Container, Node as Host, Pod};

/// A container that has the pod's modes, as the kubelet always sends it.
async fn with_modes(node: &Node, change: impl Fn(&mut v1::NamespaceOption)) -> Result<(Bed, String)> {
    let bed = Bed::with(node, |config| {
        change(pod_namespaces(config));
        if pod_namespaces(config).network() == Host {
            config.hostname.clear();
        }
    })
    .await?;
    let mut config = sleeper("main");
    change(security(&mut config).namespace_options.get_or_insert_default());
    let id = bed.run(&config).await?;
    Ok((bed, id))
}

async fn link(bed: &Bed, id: &str, name: &str) -> Result<String> {
    bed.cri.sh(id, &format!("readlink /proc/self/ns/{name}")).await
}

fn hosts(node: &Node, name: &str) -> Result<String> {
    Ok(format!(
        "{}\n",
        std::fs::read_link(format!("/proc/{}/ns/{name}", node.init()))?.display()
    ))
}

#[test]
fn e6_containers_of_a_pod_share_net_ipc_and_uts_but_not_pid_and_mount() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let (one, two) = (bed.sleeper("one").await?, bed.sleeper("two").await?);
        for name in ["net", "ipc", "uts"] {
            let first = link(&bed, &one, name).await?;
            ensure!(first == link(&bed, &two, name).await?, "{name} is not shared");
            ensure!(first != hosts(node, name)?, "{name} is the host's");
        }
        for name in ["pid", "mnt"] {
            ensure!(
                link(&bed, &one, name).await? != link(&bed, &two, name).await?,
                "{name} is shared"
            );
        }
        Ok(())
    });
}

#[test]
fn e6_the_hosts_network_pid_and_ipc() {
    test(async |node| -> Result<()> {
        let (bed, id) = with_modes(node, |options| {
            options.network = Host.into();
            options.pid = Host.into();
            options.ipc = Host.into();
        })
        .await?;
        for name in ["net", "ipc", "pid"] {
            ensure!(
                link(&bed, &id, name).await? == hosts(node, name)?,
                "{name} is not the host's"
            );
        }
        let status = bed.cri.pod_status(&bed.pod).await?;
        let options = status
            .linux
            .and_then(|linux| linux.namespaces)
            .and_then(|namespaces| namespaces.options)
            .unwrap_or_default();
        ensure!(
            options.network() == Host && options.pid() == Host && options.ipc() == Host,
            "{options:?}"
        );
        ensure!(
            status.network.unwrap_or_default().ip.is_empty(),
            "a pod on the host's network has no address of its own"
        );
        Ok(())
    });
}

#[test]
fn e6_the_modes_come_back() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let status = bed.cri.pod_status(&bed.pod).await?;
        let options = status
            .linux
            .and_then(|linux| linux.namespaces)
            .and_then(|namespaces| namespaces.options)
            .unwrap_or_default();
        ensure!(
            options.network() == Pod && options.pid() == Container && options.ipc() == Pod,
            "{options:?}"
        );
        Ok(())
    });
}

#[test]
fn e6_a_shared_pid_namespace_has_an_init_that_reaps() {
    test(async |node| -> Result<()> {
        let (bed, id) = with_modes(node, |options| options.pid = Pod.into()).await?;
        let mut config = sleeper("second");
        security(&mut config).namespace_options.get_or_insert_default().pid = Pod.into();
        let second = bed.run(&config).await?;
        ensure!(
            link(&bed, &id, "pid").await? == link(&bed, &second, "pid").await?,
            "pid is not shared"
        );
        // An orphan of an orphan: its end must be seen by pid 1.
        bed.cri.sh(&id, "(sh -c 'sleep 0.1' &) ; true").await?;
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        let zombies = bed
            .cri
            .sh(&second, "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l")
            .await?;
        ensure!(zombies == "0\n", "{zombies} zombies");
        let first = bed.cri.sh(&id, "echo $$; tr '\\0' ' ' < /proc/1/cmdline").await?;
        ensure!(!first.starts_with("1\n"), "the container itself is pid 1: {first}");
        // One container's end is not the other's.
        bed.cri.stop(&id, 0).await?;
        ensure!(bed.cri.sh(&second, "echo fine").await? == "fine\n", "the other died");
        Ok(())
    });
}

#[test]
fn e6_a_container_can_join_anothers_pid_namespace() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let target = bed.sleeper("target").await?;
        let mut config = sleeper("debug");
        let options = security(&mut config).namespace_options.get_or_insert_default();
        options.pid = v1::NamespaceMode::Target.into();
        options.target_id.clone_from(&target);
        let id = bed.run(&config).await?;
        ensure!(
            link(&bed, &id, "pid").await? == link(&bed, &target, "pid").await?,
            "not joined"
        );
        Ok(())
    });
}

#[test]
fn e6_sysctls_are_the_pods() {
    test(async |node| -> Result<()> {
        let before = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")?;
        let bed = Bed::with(node, |config| {
            config.linux.get_or_insert_default().sysctls = [
                ("net.ipv4.ip_local_port_range", "20000 20100"),
                ("kernel.shm_rmid_forced", "1"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        })
        .await?;
        let id = bed.sleeper("main").await?;
        ensure!(
            bed.cri
                .sh(&id, "cat /proc/sys/net/ipv4/ip_local_port_range")
                .await?
                .split_whitespace()
                .eq(["20000", "20100"]),
            "net"
        );
        ensure!(
            bed.cri.sh(&id, "cat /proc/sys/kernel/shm_rmid_forced").await? == "1\n",
            "kernel"
        );
        ensure!(
            std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")? == before,
            "the host's changed"
        );
        Ok(())
    });
}

#[test]
fn e6_a_sysctl_of_the_host_is_refused() {
    test(async |node| -> Result<()> {
        let mut config = e2e::pod(node, "pod");
        config.linux.get_or_insert_default().sysctls = [("kernel.panic".to_owned(), "60".to_owned())].into();
        let Err(status) = node.cri().run_pod(&config).await else {
            anyhow::bail!("kernel.panic was accepted")
        };
        ensure!(status.message().contains("kernel.panic") || !node.ours(), "{status:?}");
        let mut config = e2e::pod(node, "host-network");
        pod_namespaces(&mut config).network = Host.into();
        config.linux.get_or_insert_default().sysctls = [("net.ipv4.ip_forward".to_owned(), "0".to_owned())].into();
        ensure!(
            node.cri().run_pod(&config).await.is_err(),
            "a network sysctl on the host's network was accepted"
        );
        let mut config = e2e::pod(node, "host-ipc");
        pod_namespaces(&mut config).ipc = Host.into();
        config.linux.get_or_insert_default().sysctls = [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into();
        ensure!(
            node.cri().run_pod(&config).await.is_err(),
            "an IPC sysctl on the host's IPC namespace was accepted"
        );
        Ok(())
    });
}

const PORT: &str = "net.ipv4.ip_unprivileged_port_start";
const PING: &str = "net.ipv4.ping_group_range";
const BACKLOG: &str = "net.core.somaxconn";

/// What the pod's own network has for the three names.
async fn three(bed: &Bed, id: &str) -> Result<Vec<String>> {
    let line = [PORT, PING, BACKLOG].map(|name| format!("cat /proc/sys/{}", name.replace('.', "/")));
    let text = bed.cri.sh(id, &line.join("; ")).await?;
    Ok(text.lines().map(|line| line.replace('\t', " ")).collect())
}

#[test]
fn every_user_may_listen_below_1024_and_ping_unless_the_node_or_the_pod_says_otherwise() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = sleeper("main");
        security(&mut config).run_as_user = Some(v1::Int64Value { value: 1000 });
        let id = bed.run(&config).await?;
        let found = three(&bed, &id).await?;
        ensure!(found[..2] == ["0", "0 2147483647"], "{found:?}");
        let line = "nc -l -p 80 & sleep 0.2; kill $! && echo listened";
        ensure!(bed.cri.sh(&id, line).await? == "listened\n", "port 80 was refused");
        Ok(())
    });
    let options = Options {
        config: format!(
            "runtime:\n  enable_unprivileged_ports: false\n  enable_unprivileged_icmp: false\n  \
             default_sysctls: [{BACKLOG}=77, kernel.shm_rmid_forced=1]\n"
        ),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let found = three(&bed, &id).await?;
        ensure!(found == ["1024", "1 0", "77"], "{found:?}");
        let forced = bed.cri.sh(&id, "cat /proc/sys/kernel/shm_rmid_forced").await?;
        ensure!(forced == "1\n", "{forced}");
        // What the pod asks for wins.
        let mut sandbox = e2e::pod(node, "asking");
        let asked = [(PORT, "500"), (BACKLOG, "99")];
        sandbox.linux.get_or_insert_default().sysctls =
            asked.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let pod = bed.cri.run_pod(&sandbox).await?;
        let id = bed.cri.run(&pod, &sleeper("main"), &sandbox).await?;
        let found = three(&bed, &id).await?;
        ensure!(found == ["500", "1 0", "99"], "{found:?}");
        // The host's network and IPC are not the pod's: its sysctls are left alone.
        let before = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")?;
        let hosts = node.sh("cat /proc/sys/net/core/somaxconn")?;
        let (bed, id) = with_modes(node, |options| {
            options.network = Host.into();
            options.ipc = Host.into();
        })
        .await?;
        let found = three(&bed, &id).await?;
        ensure!(found[2] == hosts.trim(), "{found:?}, the host has {hosts}");
        ensure!(
            std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")? == before,
            "the host's changed"
        );
        Ok(())
    });
}

/// A row of a node's mount table.
#[derive(Debug)]
struct Mount {
    number: String,
    /// The one that it is mounted on.
    on: String,
    place: String,
    is_shared: bool,
}

fn mounts(node: &Node) -> Result<Vec<Mount>> {
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", node.init()))?;
    let row = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some(Mount {
            number: words.next()?,
            on: words.next()?,
            place: words.nth(2)?,
            is_shared: line.contains(" shared:"),
        })
    };
    Ok(table.lines().filter_map(row).collect())
}

#[test]
fn what_is_mounted_for_pods_is_below_mounts_of_its_own() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let (ns, netns) = (
            node.state_dir().join("ns").display().to_string(),
            "/run/netns".to_owned(),
        );
        let bed = Bed::new(node).await?;
        for is_again in [false, true] {
            if is_again {
                node.stop_daemon().await?;
                node.start_daemon().await?;
            }
            let all = mounts(node)?;
            // Network namespaces as `ip netns` has them: seen wherever `/run` is.
            for (home, count, is_shared) in [(&ns, 3, false), (&netns, 1, true)] {
                let at: Vec<_> = all.iter().filter(|mount| mount.place == *home).collect();
                let [mount] = at[..] else {
                    anyhow::bail!("{home} is mounted {} times", at.len());
                };
                ensure!(mount.is_shared == is_shared, "{mount:?}");
                let inside = format!("{home}/");
                let below: Vec<_> = all.iter().filter(|mount| mount.place.starts_with(&inside)).collect();
                ensure!(below.len() == count, "{home}: {below:?}");
                ensure!(below.iter().all(|one| one.on == mount.number), "{mount:?}: {below:?}");
            }
        }
        bed.cri.remove_everything().await?;
        node.stop_daemon().await?;
        let left: Vec<_> = mounts(node)?.into_iter().filter(|mount| mount.place == ns).collect();
        ensure!(left.is_empty(), "{left:?}");
        node.start_daemon().await
    });
}
