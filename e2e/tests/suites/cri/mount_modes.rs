//! Recursive read-only mounts, propagation and its conditions, directories of devices.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use e2e::bed::refused;
use e2e::catalog::BUSYBOX;
use e2e::{Bed, Node, container, test};
use proto::cri as v1;
use tonic::Code;

fn mount(host: &Path, inside: &str) -> v1::Mount {
    v1::Mount {
        container_path: inside.into(),
        host_path: host.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// A directory with a filesystem of its own in `sub`.
fn tree(node: &Node) -> Result<PathBuf> {
    let host = node.dir().join("tree");
    fs::create_dir_all(host.join("sub"))?;
    node.sh(&format!("mount -t tmpfs tmpfs {}/sub", host.display()))?;
    Ok(host)
}

#[test]
fn e7_recursive_read_only_is_the_whole_tree_and_plain_read_only_its_top() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let host = tree(node)?;
        let line = "for d in /ro /ro/sub /rro /rro/sub; do touch $d/x 2>/dev/null && echo $d; done; true";
        let mut config = container("main", BUSYBOX, &["sh", "-c", line]);
        let read_only = |inside: &str, recursive: bool| v1::Mount {
            readonly: true,
            recursive_read_only: recursive,
            ..mount(&host, inside)
        };
        config.mounts = vec![read_only("/ro", false), read_only("/rro", true)];
        let output = bed.output_of(&config).await?;
        ensure!(output == "/ro/sub\n", "{output:?}");
        // The host's own is not touched.
        node.sh(&format!("touch {0}/y {0}/sub/y; umount {0}/sub", host.display()))?;
        Ok(())
    });
}

#[test]
fn e7_recursive_read_only_needs_readonly_and_private_propagation() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let wish = |readonly: bool, propagation: v1::MountPropagation| {
            let mut config = container("main", BUSYBOX, &["true"]);
            config.mounts = vec![v1::Mount {
                readonly,
                recursive_read_only: true,
                propagation: propagation.into(),
                ..mount(node.dir(), "/v")
            }];
            config
        };
        use v1::MountPropagation::{
            PropagationBidirectional as Both, PropagationHostToContainer as In, PropagationPrivate,
        };
        for (config, word) in [
            (wish(false, PropagationPrivate), "readonly"),
            (wish(true, In), "private"),
            (wish(true, Both), "private"),
        ] {
            refused(
                bed.create(&config).await,
                Code::InvalidArgument,
                &["recursive_read_only", word],
            )?;
        }
        Ok(())
    });
}

#[test]
fn e7_propagation_needs_a_shared_source_and_says_how_to_get_one() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let host = node.dir().join("own");
        fs::create_dir(&host)?;
        node.sh(&format!(
            "mount -t tmpfs tmpfs {0} && mount --make-private {0}",
            host.display()
        ))?;
        for propagation in [
            v1::MountPropagation::PropagationHostToContainer,
            v1::MountPropagation::PropagationBidirectional,
        ] {
            let mut config = container("main", BUSYBOX, &["true"]);
            config.mounts = vec![v1::Mount {
                propagation: propagation.into(),
                ..mount(&host, "/v")
            }];
            refused(
                bed.create(&config).await,
                Code::FailedPrecondition,
                &["private mount", "mount --make-rshared", &host.to_string_lossy()],
            )?;
        }
        // A slave hears of its master's mounts, and cannot tell anybody of its own.
        node.sh(&format!(
            "mount --make-shared {0} && mount --make-slave {0}",
            host.display()
        ))?;
        let mut config = container("both", BUSYBOX, &["true"]);
        config.mounts = vec![v1::Mount {
            propagation: v1::MountPropagation::PropagationBidirectional.into(),
            ..mount(&host, "/v")
        }];
        refused(bed.create(&config).await, Code::FailedPrecondition, &["make-rshared"])?;
        node.sh(&format!("umount {}", host.display()))?;
        Ok(())
    });
}

#[test]
fn e7_a_directory_of_devices_is_taken_with_all_in_it() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let host = node.dir().join("devices");
        fs::create_dir_all(host.join("deep"))?;
        // 10:229 is fuse, which no container has by itself and anybody may open.
        node.sh(&format!(
            "mknod {0}/fuse c 10 229; mknod {0}/deep/fuse c 10 229; touch {0}/file",
            host.display()
        ))?;
        let line = "(true < /dev/mine/fuse) && echo read; (true < /dev/mine/deep/fuse) && echo deep; (true > /dev/mine/fuse) 2>/dev/null || echo refused; test -e /dev/mine/file || echo no file";
        let mut config = container("main", BUSYBOX, &["sh", "-c", line]);
        config.devices.push(v1::Device {
            host_path: host.to_string_lossy().into_owned(),
            container_path: "/dev/mine".into(),
            permissions: "r".into(),
        });
        let output = bed.output_of(&config).await?;
        ensure!(output == "read\ndeep\nrefused\nno file\n", "{output:?}");
        Ok(())
    });
}

#[test]
fn e7_what_is_no_device_is_refused() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for (host_path, container_path, permissions, code, word) in [
            ("/dev/no-such", "", "r", Code::NotFound, "/dev/no-such"),
            ("/etc/passwd", "", "r", Code::InvalidArgument, "no device node"),
            ("/dev/null", "", "rx", Code::InvalidArgument, "permissions"),
            ("dev/null", "", "r", Code::InvalidArgument, "not absolute"),
            ("/dev/null", "/dev/../x", "r", Code::InvalidArgument, "container_path"),
        ] {
            let mut config = container("main", BUSYBOX, &["true"]);
            config.devices.push(v1::Device {
                host_path: host_path.into(),
                container_path: container_path.into(),
                permissions: permissions.into(),
            });
            refused(bed.create(&config).await, code, &[word])?;
        }
        Ok(())
    });
}
