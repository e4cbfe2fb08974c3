//! E6, E7: a pod in a user namespace, and the entry of a user that the image does not know.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::{map_container, map_pod, security, user_namespace};
use e2e::{Bed, container, test};
use proto::cri as v1;

fn container_in(name: &str, line: &str) -> v1::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["sh", "-c", line]);
    map_container(&mut config);
    config
}

#[test]
fn e6_in_a_user_namespace_shm_belongs_to_its_root() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, map_pod).await?;
        let line = "stat -c '%u %g %a' /dev/shm; grep ' /dev/shm ' /proc/mounts; echo told > /dev/shm/file";
        let text = bed.output_of(&container_in("main", line)).await?;
        let mut lines = text.lines();
        ensure!(lines.next() == Some("0 0 1777"), "{text}");
        let options = lines.next().context("it is no mount")?;
        for option in ["nosuid", "nodev", "noexec"] {
            ensure!(options.contains(option), "no {option}: {options}");
        }
        // The pod's other containers see it, under the same ids.
        let other = container_in("other", "cat /dev/shm/file; stat -c %u /dev/shm/file");
        ensure!(bed.output_of(&other).await? == "told\n0\n", "it is not shared");
        Ok(())
    });
}

#[test]
fn e6_in_a_user_namespace_the_pods_files_belong_to_its_root() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, map_pod).await?;
        let line = "for it in hostname hosts resolv.conf; do stat -c '%u %g %n' /etc/$it; grep -c \" /etc/$it \" \
                    /proc/mounts; echo >> /etc/$it || echo closed; done";
        let text = bed.output_of(&container_in("main", line)).await?;
        let wanted = ["hostname", "hosts", "resolv.conf"].map(|name| format!("0 0 /etc/{name}\n1\n"));
        ensure!(text == wanted.concat(), "{text}");
        Ok(())
    });
}

#[test]
fn e6_in_a_user_namespace_pings_stay_within_its_groups() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| {
            map_pod(config);
            config
                .linux
                .get_or_insert_default()
                .sysctls
                .insert("net.ipv4.ping_group_range".into(), "0 2147483647".into());
        })
        .await?;
        let text = bed
            .output_of(&container_in("main", "cat /proc/sys/net/ipv4/ping_group_range"))
            .await?;
        ensure!(
            text.split_whitespace().collect::<Vec<_>>() == ["0", "65535"],
            "the range is {text}"
        );
        Ok(())
    });
}

#[test]
fn e7_a_volume_keeps_its_owners_in_a_user_namespace() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, map_pod).await?;
        let host = node.dir().join("volume");
        fs::create_dir_all(&host)?;
        fs::write(host.join("file"), "1234's")?;
        std::os::unix::fs::chown(host.join("file"), Some(1234), Some(4321))?;
        let mut config = container_in("main", "stat -c '%u %g' /v/file; touch /v/new; chown 77:88 /v/new");
        config.mounts = vec![v1::Mount {
            container_path: "/v".into(),
            host_path: host.to_string_lossy().into_owned(),
            uid_mappings: user_namespace().uids,
            gid_mappings: user_namespace().gids,
            ..Default::default()
        }];
        ensure!(bed.output_of(&config).await? == "1234 4321\n", "other ids inside");
        let new = fs::metadata(host.join("new"))?;
        ensure!(
            (new.uid(), new.gid()) == (77, 88),
            "on the host it belongs to {}:{}",
            new.uid(),
            new.gid()
        );
        Ok(())
    });
}

#[test]
fn e7_a_user_without_an_entry_in_passwd_gets_one() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "whoami && grep :4321: /etc/passwd"]);
        security(&mut config).run_as_user = Some(v1::Int64Value { value: 4321 });
        let text = bed.output_of(&config).await?;
        let entry = text.lines().nth(1).context("no entry")?;
        let fields: Vec<&str> = entry.split(':').collect();
        ensure!(
            fields.len() == 7 && fields[2] == "4321" && text.lines().next() == Some(fields[0]),
            "{text}"
        );
        // Another container of the image does not see it.
        let plain = container("plain", BUSYBOX, &["sh", "-c", "! grep :4321: /etc/passwd"]);
        bed.output_of(&plain).await?;
        Ok(())
    });
}
