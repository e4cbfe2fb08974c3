//! E3: codes, and verbs that may be repeated.

use anyhow::{Result, ensure};
use e2e::bed::refused_any;
use e2e::catalog::BUSYBOX;
use e2e::{Bed, refused, sleeper, test};
use proto::cri as v1;
use tonic::Code;

const UNKNOWN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn e3_stop_and_remove_of_the_unknown_succeed() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        cri.stop(UNKNOWN, 0).await?;
        cri.remove(UNKNOWN).await?;
        cri.stop_pod(UNKNOWN).await?;
        cri.remove_pod(UNKNOWN).await?;
        cri.remove_image("127.0.0.1:5000/never:pulled").await?;
        Ok(())
    });
}

#[test]
fn e3_questions_about_the_unknown_are_notfound() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        refused(cri.container_status(UNKNOWN).await, Code::NotFound, &[])?;
        refused(cri.pod_status(UNKNOWN).await, Code::NotFound, &[])?;
        refused(cri.start(UNKNOWN).await, Code::NotFound, &[])?;
        refused(cri.exec_with(UNKNOWN, &["true"], 0).await, Code::NotFound, &[])?;
        let codes: &[Code] = if node.ours() {
            &[Code::NotFound]
        } else {
            &[Code::NotFound, Code::Unknown]
        };
        refused_any(cri.reopen_log(UNKNOWN).await, codes, &[])?;
        refused_any(cri.stats(UNKNOWN).await, codes, &[])?;
        let exec = v1::ExecRequest {
            container_id: UNKNOWN.into(),
            cmd: vec!["true".into()],
            stdout: true,
            ..Default::default()
        };
        refused_any(cri.runtime.clone().exec(exec).await, codes, &[])?;
        let attach = v1::AttachRequest {
            container_id: UNKNOWN.into(),
            stdout: true,
            ..Default::default()
        };
        refused_any(cri.runtime.clone().attach(attach).await, codes, &[])?;
        let forward = v1::PortForwardRequest {
            pod_sandbox_id: UNKNOWN.into(),
            port: vec![80],
        };
        refused_any(cri.runtime.clone().port_forward(forward).await, codes, &[])?;
        ensure!(
            cri.image("127.0.0.1:5000/never:pulled").await?.is_none(),
            "an image that was never pulled"
        );
        Ok(())
    });
}

#[test]
fn e3_stop_and_remove_may_be_repeated() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        for _ in 0..3 {
            bed.cri.stop(&id, 5).await?;
        }
        for _ in 0..3 {
            bed.cri.remove(&id).await?;
        }
        for _ in 0..3 {
            bed.cri.stop_pod(&bed.pod).await?;
        }
        for _ in 0..3 {
            bed.cri.remove_pod(&bed.pod).await?;
        }
        Ok(())
    });
}

#[test]
fn e3_an_unknown_handler_is_an_error() {
    test(async |node| -> Result<()> {
        let config = e2e::pod(node, "pod");
        let codes = [Code::InvalidArgument, Code::NotFound, Code::Unknown];
        refused_any(
            node.cri().run_pod_with(&config, "no-such-handler").await,
            &codes,
            &["no-such-handler"],
        )?;
        ensure!(node.cri().pods(None).await?.is_empty(), "a pod stayed");
        Ok(())
    });
}

#[test]
fn e3_no_container_in_a_pod_that_is_not_ready() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.stop_pod(&bed.pod).await?;
        let answer = bed.create(&sleeper("main")).await;
        let codes: &[Code] = if node.ours() {
            &[Code::FailedPrecondition]
        } else {
            &[Code::Unknown, Code::FailedPrecondition]
        };
        refused_any(answer, codes, &["not"])?;
        ensure!(bed.cri.containers(None).await?.is_empty(), "a container stayed");
        Ok(())
    });
}

#[test]
fn e3_no_command_and_no_entrypoint_is_an_error() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.cri.pull("127.0.0.1:5000/busybox:empty").await?;
        let config = e2e::container("main", "127.0.0.1:5000/busybox:empty", &[]);
        let codes: &[Code] = if node.ours() {
            &[Code::InvalidArgument]
        } else {
            &[Code::Unknown]
        };
        refused_any(bed.create(&config).await, codes, &["no command specified"])
    });
}

#[test]
fn e3_remove_force_stops_a_running_container() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        bed.cri.remove(&id).await?;
        ensure!(bed.cri.containers(None).await?.is_empty(), "still there");
        Ok(())
    });
}

#[test]
fn e3_removing_a_pod_removes_its_containers() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.sleeper("one").await?;
        bed.create(&sleeper("two")).await?;
        if node.ours() {
            bed.cri.remove_pod(&bed.pod).await?;
        } else {
            // containerd wants it stopped first.
            bed.cri.stop_pod(&bed.pod).await?;
            bed.cri.remove_pod(&bed.pod).await?;
        }
        ensure!(
            bed.cri.containers(None).await?.is_empty() && bed.cri.pods(None).await?.is_empty(),
            "something stayed"
        );
        Ok(())
    });
}

#[test]
fn e3_stopping_a_pod_stops_its_containers() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        bed.cri.stop_pod(&bed.pod).await?;
        let status = bed.cri.container_status(&id).await?;
        ensure!(
            status.state() == v1::ContainerState::ContainerExited,
            "{:?}",
            status.state()
        );
        Ok(())
    });
}

#[test]
fn e3_an_image_in_use_keeps_its_layers() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        if bed.cri.remove_image(BUSYBOX).await.is_ok() {
            ensure!(
                bed.cri.sh(&id, "cat /srv/index.html").await? == "served by the pod\n",
                "the container lost its files"
            );
        }
        ensure!(
            bed.exec(&id, &["ls", "/bin/busybox"]).await?.code == 0,
            "the container lost its files"
        );
        Ok(())
    });
}
