//! resolv.conf, hostname, /dev/shm.

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, container, test};
use proto::cri as v1;

#[test]
fn e6_resolv_conf_is_as_the_kubelet_says_in_its_order() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| {
            config.dns_config = Some(v1::DnsConfig {
                servers: ["10.96.0.10", "10.96.0.11"].map(str::to_owned).into(),
                searches: ["b.example", "a.example"].map(str::to_owned).into(),
                options: ["ndots:5", "edns0"].map(str::to_owned).into(),
            });
        })
        .await?;
        let output = bed
            .output_of(&container("main", BUSYBOX, &["cat", "/etc/resolv.conf"]))
            .await?;
        let lines: Vec<&str> = output.lines().collect();
        ensure!(lines.contains(&"search b.example a.example"), "{output}");
        ensure!(lines.contains(&"options ndots:5 edns0"), "{output}");
        let servers: Vec<&&str> = lines.iter().filter(|line| line.starts_with("nameserver")).collect();
        ensure!(
            servers == [&"nameserver 10.96.0.10", &"nameserver 10.96.0.11"],
            "{output}"
        );
        Ok(())
    });
}

#[test]
fn e6_without_dns_configuration_the_hosts_file_is_copied() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| config.dns_config = None).await?;
        let output = bed
            .output_of(&container("main", BUSYBOX, &["cat", "/etc/resolv.conf"]))
            .await?;
        ensure!(output == std::fs::read_to_string("/etc/resolv.conf")?, "{output}");
        Ok(())
    });
}

#[test]
fn e6_the_hostname_is_the_pods() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| config.hostname = "a-ship".into()).await?;
        let output = bed
            .output_of(&container(
                "main",
                BUSYBOX,
                &["sh", "-c", "hostname; cat /etc/hostname; echo $HOSTNAME"],
            ))
            .await?;
        ensure!(output == "a-ship\na-ship\na-ship\n", "{output}");
        Ok(())
    });
}

#[test]
fn e6_with_the_hosts_network_the_hostname_is_the_nodes() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| {
            config.hostname = String::new();
            e2e::config::pod_namespaces(config).network = v1::NamespaceMode::Node.into();
        })
        .await?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "hostname; cat /etc/hostname"]);
        let options = v1::NamespaceOption {
            network: v1::NamespaceMode::Node.into(),
            pid: v1::NamespaceMode::Container.into(),
            ..Default::default()
        };
        e2e::config::security(&mut config).namespace_options = Some(options);
        let output = bed.output_of(&config).await?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
        ensure!(output == format!("{host}{host}"), "{output}");
        Ok(())
    });
}

#[test]
fn e6_shm_is_the_pods_64_mib_and_shared() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let one = bed.sleeper("one").await?;
        let two = bed.sleeper("two").await?;
        bed.cri.sh(&one, "echo shared > /dev/shm/file").await?;
        ensure!(bed.cri.sh(&two, "cat /dev/shm/file").await? == "shared\n", "not shared");
        let line = bed
            .cri
            .sh(&one, "grep ' /dev/shm ' /proc/mounts; stat -c %a /dev/shm")
            .await?;
        for word in ["tmpfs", "nosuid", "nodev", "noexec", "size=65536k", "1777"] {
            // containerd leaves the three flags out.
            ensure!(
                line.contains(word) || (!node.ours() && word.starts_with("no")),
                "{word} is not in {line}"
            );
        }
        Ok(())
    });
}

#[test]
fn e7_without_the_kubelets_file_hosts_has_the_names_that_programs_rely_on() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| config.hostname = "by-name".into()).await?;
        let output = bed
            .output_of(&container("main", BUSYBOX, &["sh", "-c", "cat /etc/hosts"]))
            .await?;
        let names = |address: &str| {
            let mut lines = output.lines().map(str::split_whitespace);
            lines.any(|mut words| {
                words.next() == Some(address) && words.any(|word| word == "localhost" || word == "by-name")
            })
        };
        ensure!(
            names("127.0.0.1") && names("::1") && output.contains("by-name"),
            "{output}"
        );
        // One that is brought, as the kubelet does, replaces it.
        let own = node.dir().join("own-hosts");
        std::fs::write(&own, "10.0.0.1 own\n")?;
        let mut config = container("own", BUSYBOX, &["cat", "/etc/hosts"]);
        config.mounts.push(v1::Mount {
            container_path: "/etc/hosts".into(),
            host_path: own.to_string_lossy().into_owned(),
            ..Default::default()
        });
        ensure!(bed.output_of(&config).await? == "10.0.0.1 own\n", "another file");
        Ok(())
    });
}
