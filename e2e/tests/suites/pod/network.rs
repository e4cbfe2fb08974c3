//! Addresses, reachability, port mappings.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, Node, container, netns, pod, test, wait};
use proto::cri as v1;

/// One HTTP request from the node's network namespace.
async fn get(node: &Node, address: &str) -> Result<String> {
    let address: SocketAddr = address.parse()?;
    wait::until(&format!("{address} answers"), Duration::from_secs(10), async || {
        let Ok(mut stream) = netns::connect(node.init(), address) else {
            return Ok(None);
        };
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(Some(text))
    })
    .await
}

fn httpd(name: &str) -> v1::ContainerConfig {
    container(name, BUSYBOX, &["httpd", "-f", "-p", "8080", "-h", "/srv"])
}

#[test]
fn e6_a_pod_has_an_address_and_can_be_reached() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.run(&httpd("web")).await?;
        let ip = bed.cri.pod_ip(&bed.pod).await?;
        ensure!(ip.starts_with("10.88."), "address {ip:?}");
        ensure!(
            get(node, &format!("{ip}:8080")).await?.contains("served by the pod"),
            "not served"
        );
        Ok(())
    });
}

#[test]
fn e6_pods_reach_one_another_and_have_loopback() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        bed.run(&httpd("web")).await?;
        let ip = bed.cri.pod_ip(&bed.pod).await?;
        let other = pod(node, "other");
        let id = bed.cri.run_pod(&other).await?;
        let client = bed.cri.run(&id, &e2e::sleeper("client"), &other).await?;
        ensure!(ip != bed.cri.pod_ip(&id).await?, "the same address twice");
        let line = format!(
            "i=0; until wget -q -O - http://{ip}:8080/; do i=$((i+1)); [ $i -lt 50 ] || exit 1; sleep 0.1; done"
        );
        ensure!(
            bed.cri.sh(&client, &line).await? == "served by the pod\n",
            "not reached"
        );
        ensure!(
            bed.cri.sh(&client, "ip addr show lo").await?.contains("127.0.0.1"),
            "no loopback"
        );
        Ok(())
    });
}

#[test]
fn e6_port_mappings() {
    test(async |node| -> Result<()> {
        let bed = Bed::with(node, |config| {
            let mapping = |host_port| v1::PortMapping {
                protocol: v1::Protocol::Tcp.into(),
                container_port: 8080,
                host_port,
                host_ip: String::new(),
            };
            // A host port of 0 is none: the kubelet sends it for each port that a container names.
            config.port_mappings = vec![mapping(0), mapping(18080)];
        })
        .await?;
        bed.run(&httpd("web")).await?;
        let ip = bed.cri.pod_ip(&bed.pod).await?;
        get(node, &format!("{ip}:8080")).await?;
        // Through the address of the bridge, as a stranger would come.
        ensure!(
            get(node, "10.88.0.1:18080").await?.contains("served by the pod"),
            "not mapped"
        );
        ensure!(
            netns::connect(node.init(), "10.88.0.1:8080".parse()?).is_err(),
            "mapped without a host port"
        );
        bed.cri.stop_pod(&bed.pod).await?;
        ensure!(
            netns::connect(node.init(), "10.88.0.1:18080".parse()?).is_err(),
            "still mapped after the stop"
        );
        Ok(())
    });
}

#[test]
fn e6_a_stopped_pod_gives_its_address_back() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let lease = node.dir().join("ipam/e2e").join(bed.cri.pod_ip(&bed.pod).await?);
        ensure!(lease.exists(), "{} is not there", lease.display());
        bed.cri.stop_pod(&bed.pod).await?;
        ensure!(!lease.exists(), "the lease stayed");
        Ok(())
    });
}

#[test]
fn e6_many_pods_at_once_have_different_addresses() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8 {
            let (cri, config) = (cri.clone(), pod(node, &format!("pod-{number}")));
            tasks.spawn(async move {
                let id = cri.run_pod(&config).await?;
                cri.pod_ip(&id).await
            });
        }
        let mut addresses = std::collections::BTreeSet::new();
        while let Some(done) = tasks.join_next().await {
            addresses.insert(done??);
        }
        ensure!(addresses.len() == 8 && !addresses.contains(""), "{addresses:?}");
        Ok(())
    });
}
