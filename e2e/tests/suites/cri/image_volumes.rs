//! Images as volumes (KEP 4639): mount, sub-path, refusals, who keeps the image.

use anyhow::{Context, Result, ensure};
use e2e::bed::refused;
use e2e::catalog::{BUSYBOX, REGISTRY};
use e2e::config::security;
use e2e::{Bed, Node, container, test};
use proto::cri as v1;
use tonic::Code;

const FAILED: &str = "imagevolumemountfailed: ";

fn layers() -> String {
    format!("{REGISTRY}/layers:1")
}

fn volume(image: &str, inside: &str) -> v1::Mount {
    v1::Mount {
        container_path: inside.into(),
        readonly: true,
        image: Some(e2e::cri::spec(image)),
        ..Default::default()
    }
}

fn part(image: &str, inside: &str, sub_path: &str) -> v1::Mount {
    v1::Mount {
        image_sub_path: sub_path.into(),
        ..volume(image, inside)
    }
}

fn with(name: &str, line: &str, mounts: Vec<v1::Mount>) -> v1::ContainerConfig {
    let mut config = container(name, BUSYBOX, &["sh", "-c", line]);
    config.mounts = mounts;
    config
}

/// What the host has mounted, as the server sees it.
fn host_mounts(node: &Node) -> Result<String> {
    node.sh("cut -d ' ' -f 4- /proc/self/mountinfo | sort")
}

#[test]
fn e7_an_image_volume_is_read_only_runs_programs_and_is_not_mounted_on_the_host() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.pull(&layers()).await?;
        let before = host_mounts(node)?;
        let id = bed
            .run(&with("main", "sleep 1000", vec![volume(&layers(), "/v")]))
            .await?;
        let output = bed
            .cri
            .sh(
                &id,
                "cat /v/d/changed /v/d/kept; ls /v/d; ! touch /v/new 2>&1; /v/bin/echo ran",
            )
            .await?;
        ensure!(
            output.contains("upperlower")
                && output.contains("changed\nkept\n")
                && output.contains("Read-only file system")
                && output.ends_with("ran\n"),
            "{output}"
        );
        // Not even one that may mount can write it: there is nowhere to write to.
        let mut config = with(
            "strong",
            "mount -o remount,rw /v; touch /v/new",
            vec![volume(&layers(), "/v")],
        );
        security(&mut config).capabilities = Some(v1::Capability {
            add_capabilities: vec!["SYS_ADMIN".into()],
            ..Default::default()
        });
        ensure!(
            bed.run_to_end(&config).await?.0.exit_code != 0,
            "written after a remount"
        );
        ensure!(host_mounts(node)? == before, "the host has another mount");
        Ok(())
    });
}

#[test]
fn e7_an_image_volume_has_a_sub_path_that_stays_inside() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.pull(&layers()).await?;
        let config = with(
            "part",
            "cat /v/seen; ls /v; ls /w",
            vec![part(&layers(), "/v", "opaque"), part(&layers(), "/w", "usr")],
        );
        let output = bed.output_of(&config).await?;
        ensure!(output == "upperseen\nbin\n", "{output:?}");
        for (number, bad) in ["not/there", "d/kept", "../d", "/d", "bin/../.."]
            .into_iter()
            .enumerate()
        {
            let config = with(&format!("bad-{number}"), "true", vec![part(&layers(), "/v", bad)]);
            refused(bed.create(&config).await, Code::InvalidArgument, &[FAILED, "sub-path"])?;
        }
        ensure!(
            bed.cri.containers(None).await?.len() == 1,
            "a refused container is listed"
        );
        Ok(())
    });
}

#[test]
fn e7_what_cannot_be_an_image_volume_is_refused_in_the_kubelets_words() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        for (number, (mount, code, words)) in [
            (
                v1::Mount {
                    readonly: false,
                    ..volume(BUSYBOX, "/v")
                },
                Code::InvalidArgument,
                "readonly",
            ),
            (
                v1::Mount {
                    host_path: "/tmp".into(),
                    ..volume(BUSYBOX, "/v")
                },
                Code::InvalidArgument,
                "host_path",
            ),
            (volume("no/such:image", "/v"), Code::NotFound, "pull it first"),
            (volume("UPPER", "/v"), Code::InvalidArgument, "UPPER"),
            (
                v1::Mount {
                    propagation: v1::MountPropagation::PropagationBidirectional.into(),
                    ..volume(BUSYBOX, "/v")
                },
                Code::InvalidArgument,
                "propagation",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let answer = bed.create(&with(&format!("bad-{number}"), "true", vec![mount])).await;
            let begins = answer
                .as_ref()
                .is_err_and(|e| e.message().to_lowercase().starts_with(FAILED));
            refused(answer, code, &[words])?;
            ensure!(begins, "{words}: the kubelet looks at how the message begins");
        }
        Ok(())
    });
}

#[test]
fn e8_an_image_in_use_by_a_volume_stays_until_the_container_goes_also_over_a_restart() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let volume_image = bed.cri.pull(&layers()).await?;
        let config = with(
            "main",
            "sleep 1000",
            vec![volume(&layers(), "/v"), part(&layers(), "/w", "d")],
        );
        let id = bed.run(&config).await?;
        refused(
            bed.cri.remove_image(&layers()).await,
            Code::FailedPrecondition,
            &["in use", &id],
        )?;
        let cri = node.restart().await?;
        refused(cri.remove_image(&layers()).await, Code::FailedPrecondition, &["in use"])?;
        ensure!(cri.sh(&id, "cat /w/kept").await? == "lower", "the volume is gone");
        // As it came, and what it is.
        let mounts = cri.container_status(&id).await?.mounts;
        for (mount, wanted) in mounts.iter().zip(&config.mounts) {
            let image = mount.image.clone().context("no image in the status")?;
            ensure!(image.image_ref == volume_image, "{image:?}");
            let mut plain = mount.clone();
            plain.image = wanted.image.clone();
            ensure!(plain == *wanted && image.image == layers(), "{mount:?}");
        }
        ensure!(mounts.len() == 2, "{mounts:?}");
        cri.stop(&id, 0).await?;
        refused(cri.remove_image(&layers()).await, Code::FailedPrecondition, &["in use"])?;
        cri.remove(&id).await?;
        cri.remove_image(&layers()).await?;
        ensure!(cri.image(&layers()).await?.is_none(), "still there");
        Ok(())
    });
}

#[test]
fn e7_many_image_volumes_and_one_too_many() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let many = |count: usize| {
            (0..count)
                .map(|n| part(BUSYBOX, &format!("/v/{n}"), "srv"))
                .collect::<Vec<_>>()
        };
        let line = "cat /v/*/index.html | grep -c served";
        let output = bed.output_of(&with("many", line, many(63))).await?;
        ensure!(output == "63\n", "{output}");
        refused(
            bed.create(&with("more", line, many(64))).await,
            Code::InvalidArgument,
            &["64", "63"],
        )?;
        Ok(())
    });
}
