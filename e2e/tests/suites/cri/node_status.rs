//! Version, Status, RuntimeConfig, and the calls that are not there yet.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::engine::conflist;
use e2e::{Options, refused, test, test_with, wait};
use proto::cri as v1;
use tonic::Code;

#[test]
fn e6_version_names_the_runtime_and_the_api() {
    test(async |node| -> Result<()> {
        let version = node.cri().version().await?;
        ensure!(version.runtime_api_version == "v1", "{version:?}");
        ensure!(
            !version.runtime_version.is_empty() && !version.version.is_empty(),
            "{version:?}"
        );
        ensure!(!node.ours() || version.runtime_name == "bulkhead", "{version:?}");
        Ok(())
    });
}

fn condition(status: &v1::StatusResponse, kind: &str) -> Option<v1::RuntimeCondition> {
    status
        .status
        .as_ref()?
        .conditions
        .iter()
        .find(|condition| condition.r#type == kind)
        .cloned()
}

#[test]
fn e6_the_network_becomes_ready_when_a_configuration_appears() {
    test_with(
        Options {
            network: false,
            ..Options::default()
        },
        async |node| -> Result<()> {
            let cri = node.cri();
            let status = cri.status().await?;
            ensure!(
                condition(&status, "RuntimeReady").is_some_and(|it| it.status),
                "{status:?}"
            );
            let network = condition(&status, "NetworkReady").unwrap_or_default();
            ensure!(
                !network.status && network.reason == "NetworkPluginNotReady" && !network.message.is_empty(),
                "{network:?}"
            );
            if node.ours() {
                node.write_network("10-e2e.conflist", &conflist(node))?;
            } else {
                // containerd does not see a file that was renamed into the directory.
                std::fs::write(node.conf_dir().join("10-e2e.conflist"), conflist(node))?;
            }
            wait::until("the network is ready", Duration::from_secs(10), async || {
                Ok(condition(&cri.status().await?, "NetworkReady")
                    .filter(|it| it.status)
                    .map(drop))
            })
            .await?;
            std::fs::remove_file(node.conf_dir().join("10-e2e.conflist"))?;
            wait::until(
                "the network is not ready any more",
                Duration::from_secs(10),
                async || {
                    Ok(condition(&cri.status().await?, "NetworkReady")
                        .filter(|it| !it.status)
                        .map(drop))
                },
            )
            .await
        },
    );
}

#[test]
fn e6_status_lists_the_handlers_and_what_they_can() {
    test(async |node| -> Result<()> {
        let status = node.cri().status().await?;
        ensure!(
            status.runtime_handlers.iter().any(|handler| handler.name.is_empty()),
            "no default handler: {status:?}"
        );
        ensure!(
            status.runtime_handlers.iter().all(|handler| handler.features.is_some()),
            "{status:?}"
        );
        ensure!(
            status
                .features
                .is_some_and(|features| features.supplemental_groups_policy),
            "{:?}",
            status.features
        );
        ensure!(!status.info.is_empty(), "no verbose info");
        for (key, value) in &status.info {
            // containerd has plain strings among them.
            ensure!(
                !node.ours() || serde_json::from_str::<serde_json::Value>(value).is_ok(),
                "{key}: {value}"
            );
        }
        Ok(())
    });
}

#[test]
fn e6_runtime_config_tells_the_cgroup_driver() {
    test(async |node| -> Result<()> {
        let answer = node
            .cri()
            .runtime
            .clone()
            .runtime_config(v1::RuntimeConfigRequest {})
            .await?
            .into_inner();
        let wanted = if e2e::cgroups::by_systemd() {
            v1::CgroupDriver::Systemd
        } else {
            v1::CgroupDriver::Cgroupfs
        };
        ensure!(
            answer.linux.is_some_and(|linux| linux.cgroup_driver() == wanted),
            "{answer:?}"
        );
        let network = v1::NetworkConfig {
            pod_cidr: "10.88.0.0/16".into(),
        };
        let request = v1::UpdateRuntimeConfigRequest {
            runtime_config: Some(v1::RuntimeConfig {
                network_config: Some(network),
            }),
        };
        node.cri().runtime.clone().update_runtime_config(request).await?;
        Ok(())
    });
}

#[test]
fn what_is_not_there_says_so_with_its_own_name() {
    test(async |node| -> Result<()> {
        if !node.ours() {
            return Ok(());
        }
        let mut runtime = node.cri().runtime;
        let id = || "a".repeat(64);
        let unimplemented = Code::Unimplemented;
        let request = v1::CheckpointContainerRequest {
            container_id: id(),
            ..Default::default()
        };
        refused(
            runtime.checkpoint_container(request).await,
            unimplemented,
            &["CheckpointContainer"],
        )?;
        refused(
            runtime.checkpoint_pod(v1::CheckpointPodRequest::default()).await,
            unimplemented,
            &["CheckpointPod"],
        )?;
        refused(
            runtime.restore_pod(v1::RestorePodRequest::default()).await,
            unimplemented,
            &["RestorePod"],
        )
    });
}
