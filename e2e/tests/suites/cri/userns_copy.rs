//! User namespaces on a filesystem that makes no idmapped mounts: here overlayfs, which holds the layers.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use e2e::catalog::{BUSYBOX, REGISTRY};
use e2e::config::{MAPPED, map_container, map_pod, user_namespace};
use e2e::{Bed, Node, Options, container, refused, test, test_with};
use proto::cri as v1;
use tonic::Code;

fn container_in(name: &str, line: &str) -> v1::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["sh", "-c", line]);
    map_container(&mut config);
    config
}

/// Starts the server on layers that lie on an overlay.
async fn on_overlay(node: &mut Node) -> Result<()> {
    node.stop_daemon().await?;
    let (layers, over) = (node.root_dir().join("layers"), node.dir().join("over"));
    for name in ["lower", "upper", "work"] {
        fs::create_dir_all(over.join(name))?;
    }
    node.sh(&format!(
        "mount -t overlay overlay -o lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work {1}",
        over.display(),
        layers.display()
    ))?;
    node.start_daemon().await
}

/// Removes all, and what `on_overlay` has mounted.
async fn off_overlay(node: &mut Node) -> Result<()> {
    node.cri().remove_everything().await?;
    node.stop_daemon().await?;
    ensure!(snapshots(node)?.is_empty(), "left: {:?}", snapshots(node)?);
    node.sh(&format!("umount {}", node.root_dir().join("layers").display()))?;
    Ok(())
}

fn snapshots(node: &Node) -> Result<Vec<PathBuf>> {
    let all = fs::read_dir(node.root_dir().join("snapshots"))?;
    Ok(all
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?)
}

#[test]
fn layers_that_no_mount_maps_are_copied_for_a_user_namespace() {
    test(async |node| -> Result<()> {
        on_overlay(node).await?;
        let bed = Bed::with(node, map_pod).await?;
        let features = bed.cri.status().await?.runtime_handlers;
        ensure!(
            features
                .iter()
                .all(|it| it.features.is_some_and(|it| it.user_namespaces)),
            "{features:?}"
        );
        // All that is the image's belongs to the container's root, who may do with it what root may.
        let line = "stat -c '%u %g %n' / /bin /bin/busybox /etc/passwd; chown 5:6 /etc/passwd && rm /bin/ls && \
                    echo mine > /new && stat -c '%u %g %n' /etc/passwd /new; echo ready; sleep 100000";
        let config = container_in("main", line);
        let id = bed.run(&config).await?;
        let wanted = "0 0 /\n0 0 /bin\n0 0 /bin/busybox\n0 0 /etc/passwd\n5 6 /etc/passwd\n0 0 /new\nready\n";
        let log = e2e::logs::path(&bed.config, &config);
        e2e::wait::until("it has told", std::time::Duration::from_secs(20), async || {
            let told = e2e::logs::joined(&e2e::logs::read(&log).unwrap_or_default(), "stdout");
            Ok((told == wanted || told.lines().count() > 7).then_some(told))
        })
        .await
        .and_then(|told| {
            ensure!(told == wanted, "{told}");
            Ok(())
        })?;
        // On the host it is nobody's who matters, and the layers are as they were.
        let copy = node.root_dir().join("snapshots").join(&id).join("copy");
        let file = fs::metadata(copy.join("bin/busybox")).context("there is no copy")?;
        ensure!(
            (file.uid(), file.gid()) == (MAPPED, MAPPED),
            "{}:{}",
            file.uid(),
            file.gid()
        );
        let owners = node.sh(&format!(
            "find {}/*/bin -maxdepth 0 -printf '%U\\n' | sort -u",
            node.root_dir().join("layers").display()
        ))?;
        ensure!(owners == "0\n", "a layer was changed: {owners}");
        // Another container of the pod, beside an image volume of the same kind.
        let mut other = container_in(
            "other",
            "stat -c '%u %g' /v/bin /v/bin/busybox; /v/bin/echo ran; ! touch /v/x 2>/dev/null",
        );
        other.mounts = vec![v1::Mount {
            container_path: "/v".into(),
            readonly: true,
            image: Some(e2e::cri::spec(BUSYBOX)),
            ..Default::default()
        }];
        let told = bed.output_of(&other).await?;
        ensure!(told == "0 0\n0 0\nran\n", "{told}");
        // The next daemon finds it as it is.
        let cri = node.restart().await?;
        ensure!(cri.sh(&id, "cat /new").await? == "mine\n", "it did not survive");
        off_overlay(node).await
    });
}

/// What the container's root and its nobody see of files whose ids the user namespace does not map.
async fn far_files(node: &Node) -> Result<String> {
    let image = format!("{REGISTRY}/busybox:far");
    let bed = Bed::with(node, map_pod).await?;
    bed.cri.pull(&image).await?;
    let see = "for it in /far-open /far-closed /far-dir /far-dir/near; do stat -c '%u %g %a %n' $it; done; \
               cat /far-open /far-dir/near; cat /far-closed 2>/dev/null || echo closed; \
               (echo more >> /far-open) 2>/dev/null || echo unwritten; chown 0 /far-open 2>/dev/null || echo kept";
    let mut told = String::new();
    for (name, user) in [("root", 0), ("nobody", 65_534)] {
        let mut config = container_in(name, see);
        config.image = Some(e2e::cri::spec(&image));
        e2e::config::security(&mut config).run_as_user = Some(v1::Int64Value { value: user });
        told += &bed.output_of(&config).await?;
    }
    Ok(told)
}

#[test]
fn what_no_id_of_the_pod_owns_is_nobodys_on_a_copy_as_on_a_mapped_mount() {
    let wanted = "65534 65534 644 /far-open\n65534 65534 600 /far-closed\n65534 65534 755 /far-dir\n\
                  0 0 644 /far-dir/near\nfar\nnear\nclosed\nunwritten\nkept\n"
        .repeat(2);
    test(async |node| -> Result<()> {
        let mapped = far_files(node).await?;
        ensure!(mapped == wanted, "on a mapped mount: {mapped}");
        Ok(())
    });
    test(async |node| -> Result<()> {
        on_overlay(node).await?;
        let copied = far_files(node).await?;
        ensure!(copied == wanted, "on a copy: {copied}");
        off_overlay(node).await
    });
}

#[test]
fn a_pod_without_a_user_namespace_has_no_copy() {
    test(async |node| -> Result<()> {
        on_overlay(node).await?;
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        ensure!(
            !node.root_dir().join("snapshots").join(&id).join("copy").exists(),
            "the image was copied"
        );
        off_overlay(node).await
    });
}

#[test]
fn a_volume_that_no_mount_maps_is_an_error_that_names_it() {
    test(async |node| -> Result<()> {
        on_overlay(node).await?;
        let bed = Bed::with(node, map_pod).await?;
        // Beside the layers: on the overlay too.
        let volume = node.root_dir().join("layers/.tmp-volume");
        node.sh(&format!("mkdir {}", volume.display()))?;
        let mut config = container_in("main", "true");
        config.mounts = vec![v1::Mount {
            container_path: "/v".into(),
            host_path: volume.to_string_lossy().into_owned(),
            uid_mappings: user_namespace().uids,
            gid_mappings: user_namespace().gids,
            ..Default::default()
        }];
        let words = ["idmap", &volume.to_string_lossy()];
        refused(bed.create(&config).await, Code::FailedPrecondition, &words)?;
        ensure!(bed.cri.containers(None).await?.is_empty(), "it was made");
        off_overlay(node).await
    });
}

#[test]
fn without_copies_a_user_namespace_is_refused_on_such_a_filesystem() {
    let options = Options {
        config: "runtime:\n  userns_copies_layers: false\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        on_overlay(node).await?;
        let cri = node.cri();
        let features = cri.status().await?.runtime_handlers;
        ensure!(
            !features
                .iter()
                .any(|it| it.features.is_some_and(|it| it.user_namespaces)),
            "{features:?}"
        );
        let mut config = e2e::config::pod(node, "mapped");
        map_pod(&mut config);
        refused(
            cri.run_pod(&config).await,
            Code::FailedPrecondition,
            &["user namespaces", "idmapped"],
        )?;
        off_overlay(node).await
    });
}
