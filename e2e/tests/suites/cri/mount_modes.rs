//! Recursive read-only mounts, propagation and its conditions, directories of devices.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use e2e::bed::refused;
use e2e::catalog::BUSYBOX;
use e2e::engine::Engine;
use e2e::{Bed, Node, Options, container, test, test_with};
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

/// Our programs, of which the server is told that its kernel is one of 2.6 (UNAME26, personality(2)): that is how it
/// knows what the kernel can.
fn for_an_old_kernel(directory: &Path) -> Result<()> {
    let script = directory.join("bulkhead");
    let program = e2e::places::product("bulkhead")?;
    fs::write(
        &script,
        format!("#!/bin/sh\nexec setarch --uname-2.6 {} \"$@\"\n", program.display()),
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let cni = e2e::places::product("bulkhead-cni")?;
    Ok(std::os::unix::fs::symlink(cni, directory.join("bulkhead-cni"))?)
}

#[test]
fn e7_a_kernel_without_recursive_read_only_is_told_in_the_kubelets_words() {
    if Engine::chosen() != Engine::Bulkhead {
        return;
    }
    let programs = e2e::places::scratch().expect("a directory");
    for_an_old_kernel(programs.path()).expect("a server");
    let options = Options {
        programs: Some(programs.path().to_owned()),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let handlers = bed.cri.status().await?.runtime_handlers;
        let offered = handlers
            .iter()
            .any(|handler| handler.features.is_some_and(|can| can.recursive_read_only_mounts));
        ensure!(!handlers.is_empty() && !offered, "{handlers:?}");
        let mut config = container("main", BUSYBOX, &["sh", "-c", "touch /v/x 2>/dev/null || echo closed"]);
        config.mounts = vec![v1::Mount {
            readonly: true,
            recursive_read_only: true,
            ..mount(&tree(node)?, "/v")
        }];
        let status = bed.create(&config).await.err().context("it was made")?;
        ensure!(
            status.code() == Code::Unimplemented && status.message().starts_with("RROUnsupported: "),
            "{status:?}"
        );
        ensure!(bed.cri.containers(None).await?.is_empty(), "it was made");
        // The kubelet's other way, IfPossible, asks for what it was told that there is.
        config.mounts[0].recursive_read_only = false;
        let output = bed.output_of(&config).await?;
        ensure!(output == "closed\n", "{output:?}");
        node.sh(&format!("umount {}/sub", node.dir().join("tree").display()))?;
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

#[test]
fn mount_options_forbid_on_a_volume_and_on_all_below() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let features = bed.cri.status().await?.features.unwrap_or_default();
        ensure!(
            features.mount_options && features.user_namespaces_host_network,
            "{features:?}"
        );
        let host = tree(node)?;
        node.sh(&format!(
            "for d in {0} {0}/sub; do printf '#!/bin/sh\necho ran\n' > $d/run; chmod 755 $d/run; done",
            host.display()
        ))?;
        let with = |options: &[&str], mount: v1::Mount| v1::Mount {
            mount_options: options.iter().map(|&option| option.into()).collect(),
            ..mount
        };
        let image = v1::Mount {
            container_path: "/image".into(),
            readonly: true,
            image: Some(e2e::cri::spec(BUSYBOX)),
            ..Default::default()
        };
        let run = "for d in /v /v/sub; do $d/run || echo no; done 2>/dev/null; \
                   /image/bin/echo image 2>/dev/null || echo no; \
                   grep -E ' /(v|v/sub|image) ' /proc/mounts | cut -d ' ' -f 2,4";
        let outcome = async |name: &str, mounts: Vec<v1::Mount>| -> Result<(String, Vec<String>)> {
            let mut config = container(name, BUSYBOX, &["sh", "-c", run]);
            config.mounts = mounts;
            let id = bed.run(&config).await?;
            let status = bed.cri.exited(&id).await?;
            ensure!(
                status
                    .mounts
                    .iter()
                    .map(|it| &it.mount_options)
                    .eq(config.mounts.iter().map(|it| &it.mount_options)),
                "{:?}",
                status.mounts
            );
            let text = e2e::logs::joined(&e2e::logs::read(&e2e::logs::path(&bed.config, &config))?, "stdout");
            let mut lines = text.lines().map(str::to_owned);
            let said: Vec<String> = lines.by_ref().take(3).collect();
            Ok((said.join(" "), lines.collect()))
        };
        let (said, flags) = outcome("plain", vec![mount(&host, "/v"), image.clone()]).await?;
        ensure!(said == "ran ran image", "{said}, {flags:?}");
        let forbidden = |it: v1::Mount| with(&["noexec", "nosuid", "nodev", "noexec"], it);
        let (said, flags) = outcome("forbidden", vec![forbidden(mount(&host, "/v")), forbidden(image)]).await?;
        ensure!(said == "no no no" && flags.len() == 3, "{said}, {flags:?}");
        for line in &flags {
            for flag in ["noexec", "nosuid", "nodev"] {
                ensure!(line.contains(flag), "{flag}: {flags:?}");
            }
        }
        // Beside other modes, and one alone.
        let both = v1::Mount {
            readonly: true,
            recursive_read_only: true,
            ..with(&["noexec"], mount(&host, "/v"))
        };
        let (said, flags) = outcome("both", vec![both]).await?;
        ensure!(said.starts_with("no no"), "{said}, {flags:?}");
        ensure!(
            flags
                .iter()
                .all(|it| it.contains(" ro") && it.contains("noexec") && !it.contains("nosuid")),
            "{flags:?}"
        );
        for bad in ["exec", "remount", "ro", "", "noexec,exec"] {
            let mut config = container("bad", BUSYBOX, &["true"]);
            config.mounts = vec![with(&[bad], mount(&host, "/v"))];
            refused(
                bed.create(&config).await,
                Code::InvalidArgument,
                &["mount_options", "noexec"],
            )?;
        }
        node.sh(&format!("umount {}/sub", host.display()))?;
        Ok(())
    });
}
