//! E7: what is mounted, where, how.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::security;
use e2e::{Bed, Node, container, test};
use proto::cri as v1;

fn mount(host: &Path, inside: &str) -> v1::Mount {
    v1::Mount {
        container_path: inside.into(),
        host_path: host.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// A directory of the node with one file.
fn volume(node: &Node, name: &str) -> Result<std::path::PathBuf> {
    let path = node.dir().join(name);
    fs::create_dir_all(&path)?;
    fs::write(path.join("file"), name)?;
    Ok(path)
}

#[test]
fn e7_a_volume_is_shared_with_the_host_and_read_only_means_it() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let host = volume(node, "volume")?;
        let mut config = container(
            "main",
            BUSYBOX,
            &[
                "sh",
                "-c",
                "cat /rw/file; echo new > /rw/new; echo x > /ro/new || echo refused; touch /ro/sub/x || echo refused",
            ],
        );
        fs::create_dir(host.join("sub"))?;
        config.mounts = vec![
            mount(&host, "/rw"),
            v1::Mount {
                readonly: true,
                ..mount(&host, "/ro")
            },
        ];
        let output = bed.output_of(&config).await?;
        ensure!(output == "volumerefused\nrefused\n", "{output:?}");
        ensure!(
            fs::read_to_string(host.join("new"))? == "new\n",
            "not written to the host"
        );
        Ok(())
    });
}

#[test]
fn e7_a_file_can_be_mounted_over_nothing_and_over_a_file() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let host = volume(node, "volume")?.join("file");
        let mut config = container("main", BUSYBOX, &["sh", "-c", "cat /new/path/file /etc/group"]);
        config.mounts = vec![mount(&host, "/new/path/file"), mount(&host, "/etc/group")];
        ensure!(bed.output_of(&config).await? == "volumevolume", "another output");
        Ok(())
    });
}

#[test]
fn e7_mounts_are_ordered_by_depth() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let (outer, inner) = (volume(node, "outer")?, volume(node, "inner")?);
        fs::create_dir_all(outer.join("deep/inner"))?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "cat /v/file /v/deep/inner/file"]);
        config.mounts = vec![mount(&inner, "/v/deep/inner"), mount(&outer, "/v")];
        ensure!(bed.output_of(&config).await? == "outerinner", "another output");
        Ok(())
    });
}

#[test]
fn e7_a_link_in_the_host_path_is_followed() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let host = volume(node, "volume")?;
        let link = node.dir().join("link");
        symlink(&host, &link)?;
        let mut config = container("main", BUSYBOX, &["cat", "/v/file"]);
        config.mounts = vec![mount(&link, "/v")];
        ensure!(bed.output_of(&config).await? == "volume", "another output");
        Ok(())
    });
}

#[test]
fn e7_propagation_from_the_host_is_seen_where_it_was_asked_for() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let host = volume(node, "volume")?;
        fs::create_dir(host.join("sub"))?;
        node.sh(&format!(
            "mount --bind {0} {0} && mount --make-shared {0}",
            host.display()
        ))?;
        let mut config = container("main", BUSYBOX, &["sleep", "100000"]);
        config.mounts = vec![
            mount(&host, "/private"),
            v1::Mount {
                propagation: v1::MountPropagation::PropagationHostToContainer.into(),
                ..mount(&host, "/slave")
            },
            v1::Mount {
                propagation: v1::MountPropagation::PropagationBidirectional.into(),
                ..mount(&host, "/shared")
            },
        ];
        security(&mut config).privileged = true;
        let pod = Bed::with(node, |config| {
            e2e::config::pod_security(config).privileged = true;
            config.metadata.get_or_insert_default().name = "privileged".into();
        })
        .await?;
        let id = pod.run(&config).await?;
        node.sh(&format!(
            "mount -t tmpfs tmpfs {0}/sub && touch {0}/sub/late",
            host.display()
        ))?;
        let output = pod
            .cri
            .sh(&id, "ls /private/sub; echo -; ls /slave/sub; echo -; ls /shared/sub")
            .await?;
        ensure!(output == "-\nlate\n-\nlate\n", "{output:?}");
        pod.cri
            .sh(
                &id,
                "mkdir /shared/back && mount -t tmpfs tmpfs /shared/back && touch /shared/back/here",
            )
            .await?;
        ensure!(
            node.sh(&format!("ls {}/back", host.display()))? == "here\n",
            "not seen on the host"
        );
        pod.cri.remove(&id).await?;
        node.sh(&format!("umount {0}/back; umount {0}/sub; umount {0}", host.display()))?;
        drop(bed);
        Ok(())
    });
}

#[test]
fn e7_the_root_is_writable_and_thrown_away_or_read_only() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        ensure!(
            bed.output_of(&container("write", BUSYBOX, &["sh", "-c", "echo x > /new && cat /new"]))
                .await?
                == "x\n",
            "write"
        );
        ensure!(
            bed.output_of(&container(
                "fresh",
                BUSYBOX,
                &["sh", "-c", "test -e /new && echo there || echo fresh"]
            ))
            .await?
                == "fresh\n",
            "fresh"
        );
        let mut config = container(
            "read-only",
            BUSYBOX,
            &[
                "sh",
                "-c",
                "echo x > /new || echo refused; echo x > /dev/shm/ok && echo shm",
            ],
        );
        security(&mut config).readonly_rootfs = true;
        ensure!(bed.output_of(&config).await? == "refused\nshm\n", "read-only root");
        Ok(())
    });
}

#[test]
fn e7_the_usual_filesystems_are_there() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let output = bed
            .output_of(&container("main", BUSYBOX, &["cat", "/proc/mounts"]))
            .await?;
        for (path, kind) in [
            ("/proc", "proc"),
            ("/dev", "tmpfs"),
            ("/dev/pts", "devpts"),
            ("/dev/mqueue", "mqueue"),
            ("/dev/shm", "tmpfs"),
            ("/sys", "sysfs"),
        ] {
            let line = output.lines().find(|line| line.split(' ').nth(1) == Some(path));
            ensure!(
                line.is_some_and(|line| line.split(' ').nth(2) == Some(kind)),
                "{path}: {line:?} in\n{output}"
            );
        }
        let devices = "for d in null zero full random urandom tty ptmx; do test -c /dev/$d || echo no $d; done; ls -l /proc/self/fd >/dev/null; test -L /dev/stdout && readlink /dev/fd";
        ensure!(
            bed.output_of(&container("devices", BUSYBOX, &["sh", "-c", devices]))
                .await?
                == "/proc/self/fd\n",
            "devices"
        );
        Ok(())
    });
}

#[test]
fn e7_a_device_is_there_and_may_be_used_as_permitted() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut config = container(
            "main",
            BUSYBOX,
            &[
                "sh",
                "-c",
                "head -c 3 /dev/mine | wc -c; head -c 1 /dev/forbidden || echo refused",
            ],
        );
        config.devices.push(v1::Device {
            host_path: "/dev/zero".into(),
            container_path: "/dev/mine".into(),
            permissions: "rw".into(),
        });
        let output = bed.output_of(&config).await?;
        ensure!(output.starts_with('3') && output.ends_with("refused\n"), "{output}");
        // A device that was not given: mknod may work, opening must not.
        let mut config = container(
            "mknod",
            BUSYBOX,
            &[
                "sh",
                "-c",
                "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg >/dev/null && echo OPENED; true",
            ],
        );
        security(&mut config).capabilities = Some(v1::Capability {
            add_capabilities: vec!["MKNOD".into()],
            ..Default::default()
        });
        ensure!(
            !bed.output_of(&config).await?.contains("OPENED"),
            "the device cgroup does not hold"
        );
        Ok(())
    });
}

#[test]
fn e7_a_mount_target_that_is_a_link_stays_in_the_root() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let host = volume(node, "volume")?;
        // The image's layer has /out -> ../../../../../tmp; the volume must land inside.
        bed.cri.pull("127.0.0.1:5000/busybox:1").await?;
        let mut config = container("main", BUSYBOX, &["sh", "-c", "cat /var/../../../../escape/file"]);
        config.mounts = vec![mount(&host, "/../../../../escape")];
        match bed.output_of(&config).await {
            Ok(output) => ensure!(output == "volume", "{output}"),
            Err(error) => ensure!(format!("{error:?}").contains("escape"), "{error:?}"),
        }
        ensure!(!Path::new("/escape").exists(), "made on the host");
        Ok(())
    });
}
