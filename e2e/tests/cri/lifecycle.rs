//! Pods and containers from birth to removal.

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{container, pod, test};
use proto::cri as v1;

#[test]
fn a_pod_with_a_container_lives_and_goes() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(BUSYBOX).await?;
        let config = pod(node, "first");
        let id = cri.run_pod(&config).await?;
        let sleeper = container("main", BUSYBOX, &["sleep", "1000"]);
        let main = cri.run(&id, &sleeper, &config).await?;
        ensure!(
            cri.container_status(&main).await?.state() == v1::ContainerState::ContainerRunning,
            "it does not run"
        );
        ensure!(cri.sh(&main, "echo hello").await? == "hello\n", "another output");
        cri.stop(&main, 0).await?;
        cri.remove(&main).await?;
        cri.stop_pod(&id).await?;
        cri.remove_pod(&id).await?;
        Ok(())
    });
}
