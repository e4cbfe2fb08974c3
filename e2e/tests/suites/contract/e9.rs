//! E9: restart, verbose.

use anyhow::{Context, Result, ensure};
use e2e::{Bed, pod, test};
use serde_json::Value;

#[test]
fn e9_host_ports_stay_taken_and_work_after_a_restart() {
    test(async |node| -> Result<()> {
        let mut config = pod(node, "web");
        config.port_mappings.push(proto::cri::PortMapping {
            container_port: 8080,
            host_port: 18080,
            ..Default::default()
        });
        let cri = node.cri();
        cri.pull(e2e::catalog::BUSYBOX).await?;
        let id = cri.run_pod(&config).await?;
        let web = e2e::container(
            "web",
            e2e::catalog::BUSYBOX,
            &["httpd", "-f", "-p", "8080", "-h", "/srv"],
        );
        cri.run(&id, &web, &config).await?;
        let cri = node.restart().await?;
        let address = node.sh("ip -4 -o addr show e2e0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'")?;
        let get = format!("busybox wget -q -O - http://{}:18080/", address.trim());
        e2e::wait::until("the port answers", std::time::Duration::from_secs(10), async || {
            Ok(node.sh(&get).ok().filter(|text| text.contains("served by the pod")))
        })
        .await?;
        let mut other = pod(node, "other");
        other.port_mappings.clone_from(&config.port_mappings);
        // Whether a second one may be made is the plugin's; the first must go on.
        let second = cri.run_pod(&other).await;
        ensure!(node.sh(&get)?.contains("served by the pod"), "taken away by {second:?}");
        Ok(())
    });
}

#[test]
fn e9_verbose_status_tells_configuration_and_network() {
    test(async |node| -> Result<()> {
        let info = node.cri().status().await?.info;
        let config: Value = serde_json::from_str(info.get("config").context("no config")?)?;
        ensure!(config.is_object(), "{config}");
        ensure!(
            info.keys().any(|key| key.to_lowercase().contains("cni")),
            "{:?}",
            info.keys()
        );
        Ok(())
    });
}

#[test]
fn e9_verbose_status_of_a_pod_has_pid_and_spec() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let info = bed.cri.pod_status_whole(&bed.pod).await?.info;
        let info: Value = serde_json::from_str(info.get("info").context("no info")?)?;
        ensure!(info.get("pid").is_some_and(Value::is_number), "{info}");
        ensure!(info.get("runtimeSpec").is_some(), "{info}");
        Ok(())
    });
}
