//! E3: error codes and idempotence.

use anyhow::{Result, ensure};
use e2e::bed::{refused, refused_any};
use e2e::{Bed, test};
use proto::cri as v1;
use tonic::Code;

#[test]
fn e3_a_registry_that_cannot_be_reached_is_registryunavailable() {
    test(async |node| -> Result<()> {
        let answer = node.cri().pull("127.0.0.1:9/no:such").await;
        ensure!(
            answer
                .as_ref()
                .is_err_and(|status| status.message().starts_with("RegistryUnavailable")),
            "{answer:?}"
        );
        refused_any(answer, &[Code::Unavailable], &["127.0.0.1:9"])
    });
}

#[test]
fn e3_removals_at_the_same_time_all_succeed() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        let (a, b, c, d) = tokio::join!(
            bed.cri.remove(&id),
            bed.cri.remove(&id),
            bed.cri.remove_pod(&bed.pod),
            bed.cri.remove_pod(&bed.pod)
        );
        a?;
        b?;
        c?;
        d?;
        ensure!(
            bed.cri.pods(None).await?.is_empty() && bed.cri.containers(None).await?.is_empty(),
            "something stayed"
        );
        Ok(())
    });
}

#[test]
fn e3_exec_attach_and_port_forward_to_the_unknown_are_notfound() {
    test(async |node| -> Result<()> {
        let mut runtime = node.cri().runtime;
        let id = "e".repeat(64);
        let exec = v1::ExecRequest {
            container_id: id.clone(),
            cmd: vec!["true".into()],
            stdout: true,
            ..Default::default()
        };
        refused(runtime.exec(exec).await, Code::NotFound, &[])?;
        let attach = v1::AttachRequest {
            container_id: id.clone(),
            stdout: true,
            ..Default::default()
        };
        refused(runtime.attach(attach).await, Code::NotFound, &[])?;
        let forward = v1::PortForwardRequest {
            pod_sandbox_id: id.clone(),
            port: vec![80],
        };
        refused(runtime.port_forward(forward).await, Code::NotFound, &[])?;
        refused(node.cri().exec_with(&id, &["true"], 5).await, Code::NotFound, &[])
    });
}

#[test]
fn e3_streams_into_what_does_not_run_are_refused() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        bed.cri.stop(&id, 5).await?;
        let mut runtime = bed.cri.runtime.clone();
        let exec = v1::ExecRequest {
            container_id: id.clone(),
            cmd: vec!["true".into()],
            stdout: true,
            ..Default::default()
        };
        refused(runtime.exec(exec).await, Code::FailedPrecondition, &[])?;
        let attach = v1::AttachRequest {
            container_id: id,
            stdout: true,
            ..Default::default()
        };
        refused(runtime.attach(attach).await, Code::FailedPrecondition, &[])?;
        bed.cri.stop_pod(&bed.pod).await?;
        let forward = v1::PortForwardRequest {
            pod_sandbox_id: bed.pod.clone(),
            port: vec![80],
        };
        refused(runtime.port_forward(forward).await, Code::FailedPrecondition, &[])
    });
}
