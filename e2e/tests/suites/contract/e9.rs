//! E9: events, restart, verbose.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::cri::Cri;
use e2e::{Bed, Options, pod, sleeper, test, test_with};
use proto::cri as v1;
use proto::cri::ContainerEventType as Kind;
use serde_json::Value;
use tonic::Streaming;

async fn events(cri: &Cri) -> Result<Streaming<v1::ContainerEventResponse>> {
    let answer = cri
        .runtime
        .clone()
        .get_container_events(v1::GetEventsRequest {})
        .await?;
    Ok(answer.into_inner())
}

/// All events up to one of this kind about `id`.
async fn until(
    stream: &mut Streaming<v1::ContainerEventResponse>,
    id: &str,
    kind: Kind,
) -> Result<Vec<v1::ContainerEventResponse>> {
    let mut all = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.message())
            .await
            .with_context(|| format!("{kind:?} of {id} does not come; so far {}", all.len()))?;
        let event = next?.context("the stream ended")?;
        let is_last = event.container_id == id && event.container_event_type() == kind;
        all.push(event);
        if is_last {
            return Ok(all);
        }
    }
}

#[test]
fn e9_every_reader_is_told_the_same_in_the_order_of_time() {
    test(async |node| -> Result<()> {
        let (mut one, mut two) = (events(&node.cri()).await?, events(&node.cri()).await?);
        let bed = Bed::new(node).await?;
        let id = bed.sleeper("main").await?;
        bed.cri.stop(&id, 5).await?;
        bed.cri.remove(&id).await?;
        bed.cri.stop_pod(&bed.pod).await?;
        bed.cri.remove_pod(&bed.pod).await?;
        let told = until(&mut one, &bed.pod, Kind::ContainerDeletedEvent).await?;
        let again = until(&mut two, &bed.pod, Kind::ContainerDeletedEvent).await?;
        let outline = |events: &[v1::ContainerEventResponse]| -> Vec<(String, Kind)> {
            events
                .iter()
                .map(|event| (event.container_id.clone(), event.container_event_type()))
                .collect()
        };
        ensure!(
            outline(&told) == outline(&again),
            "two readers were told different things"
        );
        let order = [
            Kind::ContainerCreatedEvent,
            Kind::ContainerStartedEvent,
            Kind::ContainerStoppedEvent,
            Kind::ContainerDeletedEvent,
        ];
        for about in [&id, &bed.pod] {
            let kinds: Vec<Kind> = told
                .iter()
                .filter(|event| event.container_id == *about)
                .map(v1::ContainerEventResponse::container_event_type)
                .collect();
            ensure!(kinds == order, "{about}: {kinds:?}");
        }
        ensure!(
            told.windows(2).all(|pair| pair[0].created_at <= pair[1].created_at),
            "times go back"
        );
        for event in &told {
            ensure!(event.created_at > 0, "{event:?}");
            let of_pod = event
                .pod_sandbox_status
                .as_ref()
                .is_some_and(|status| status.id == bed.pod);
            let is_end = event.container_event_type() == Kind::ContainerDeletedEvent;
            ensure!(of_pod || is_end, "no status of the pod: {event:?}");
            if event.container_id == id && !is_end {
                let status = event
                    .containers_statuses
                    .iter()
                    .find(|status| status.id == id)
                    .context("no status")?;
                let expected = match event.container_event_type() {
                    Kind::ContainerCreatedEvent => v1::ContainerState::ContainerCreated,
                    Kind::ContainerStartedEvent => v1::ContainerState::ContainerRunning,
                    _ => v1::ContainerState::ContainerExited,
                };
                ensure!(
                    status.state() == expected,
                    "{:?}: {status:?}",
                    event.container_event_type()
                );
            }
        }
        Ok(())
    });
}

#[test]
fn e9_what_one_reader_leaves_lying_is_told_to_the_others() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let _deaf = events(&bed.cri).await?;
        let mut heard = events(&node.cri()).await?;
        let listener = {
            let pod = bed.pod.clone();
            tokio::spawn(async move { until(&mut heard, &pod, Kind::ContainerStoppedEvent).await })
        };
        let begin = Instant::now();
        let mut config = sleeper("main");
        // Large statuses, so that they fill what lies between server and reader.
        config.annotations = [("large".to_owned(), "x".repeat(20_000))].into();
        for number in 0..50 {
            config.metadata.get_or_insert_default().attempt = number;
            let id = bed.create(&config).await?;
            bed.cri.remove(&id).await?;
        }
        bed.cri.stop_pod(&bed.pod).await?;
        ensure!(begin.elapsed() < Duration::from_secs(60), "took {:?}", begin.elapsed());
        let told = listener.await??;
        let made = told
            .iter()
            .filter(|event| event.container_event_type() == Kind::ContainerCreatedEvent)
            .count();
        ensure!(made == 50, "{made} of 50 were told to the one who listened");
        Ok(())
    });
}

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
        e2e::wait::until("the port answers", Duration::from_secs(10), async || {
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
        // critest reads it to find out whether this node has user namespaces.
        let state = config["stateDir"].as_str().context("no stateDir")?;
        ensure!(node.inside(std::path::Path::new(state)).is_dir(), "{config}");
        ensure!(
            info.keys().any(|key| key.to_lowercase().contains("cni")),
            "{:?}",
            info.keys()
        );
        Ok(())
    });
}

#[test]
fn e9_verbose_info_of_an_image_is_json_with_its_configuration() {
    test(async |node| -> Result<()> {
        let cri = node.cri();
        let image = format!("{}/busybox:user", e2e::catalog::REGISTRY);
        cri.pull(&image).await?;
        let status = async |verbose: bool| {
            let request = proto::cri::ImageStatusRequest {
                image: Some(e2e::cri::spec(&image)),
                verbose,
            };
            let answer = cri.images.clone().image_status(request).await?;
            anyhow::Ok(answer.into_inner().info)
        };
        let info = status(true).await?;
        let info: Value = serde_json::from_str(info.get("info").context("no info")?)?;
        let config = &info["imageSpec"]["config"];
        ensure!(
            config["User"] == "app" && config["StopSignal"] == "SIGUSR1" && config["Labels"]["made-by"] == "e2e",
            "{info}"
        );
        ensure!(status(false).await?.is_empty(), "told though nobody asked");
        Ok(())
    });
}

#[test]
fn e9_verbose_info_of_a_pod_leads_to_its_namespaces() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let info = bed.cri.pod_status_whole(&bed.pod).await?.info;
        let info: Value = serde_json::from_str(info.get("info").context("no info")?)?;
        ensure!(info.get("pid").is_some_and(Value::is_number), "{info}");
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"]
            .as_array()
            .context("no namespaces")?;
        let network = namespaces
            .iter()
            .find(|it| it["type"] == "network")
            .and_then(|it| it["path"].as_str())
            .context("no network namespace")?;
        let address = node.sh(&format!("nsenter --net={network} ip -4 -o addr show eth0"))?;
        ensure!(address.contains(&bed.cri.pod_ip(&bed.pod).await?), "{address}");
        Ok(())
    });
}

#[test]
fn e9_a_handler_that_vanished_does_not_stop_the_start() {
    let options = Options {
        config: "handlers:\n  spare:\n    kind: isolation\n".into(),
        ..Options::default()
    };
    test_with(options, async |node| -> Result<()> {
        let cri = node.cri();
        cri.pull(e2e::catalog::BUSYBOX).await?;
        let config = pod(node, "pod");
        let id = cri.run_pod_with(&config, "spare").await?;
        let main = cri.run(&id, &sleeper("main"), &config).await?;
        std::fs::write(
            node.dir().join("config.yaml"),
            format!("cgroup_root: {}\n", node.name()),
        )?;
        let cri = node.restart().await?;
        ensure!(
            cri.run_pod_with(&pod(node, "next"), "spare").await.is_err(),
            "the handler is still there"
        );
        let status = cri.pod_status(&id).await?;
        ensure!(status.runtime_handler == "spare", "{status:?}");
        ensure!(
            cri.container_status(&main).await?.state() == v1::ContainerState::ContainerRunning,
            "the container does not run"
        );
        cri.stop(&main, 5).await?;
        cri.stop_pod(&id).await?;
        cri.remove_pod(&id).await?;
        Ok(())
    });
}
