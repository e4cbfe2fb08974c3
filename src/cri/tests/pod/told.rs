//! What the server tells by itself or in many messages: events, streamed lists, statistics and metrics of pods.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use proto::cri as api;
use proto::cri::image_service_server::ImageService as _;
use proto::cri::runtime_service_server::RuntimeService as _;
use tonic::{Code, Request};

use crate::bed::{Bed, Life, container, create, pod, run, start};

type Events = <cri::Services as proto::cri::runtime_service_server::RuntimeService>::GetContainerEventsStream;

fn listen(life: &Life) -> Events {
    life.run(
        life.services()
            .get_container_events(Request::new(api::GetEventsRequest {})),
    )
    .unwrap()
    .into_inner()
}

fn next(life: &Life, events: &mut Events) -> api::ContainerEventResponse {
    life.run(async { tokio::time::timeout(Duration::from_secs(10), events.next()).await })
        .unwrap()
        .unwrap()
        .unwrap()
}

#[test]
fn every_change_is_told_once_to_everybody() {
    use api::ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
        ContainerStoppedEvent as Stopped,
    };
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let (mut one, mut two) = (listen(&life), listen(&life));
    let pod = run(&life, pod(&bed, "told"));
    let long = create(&life, &pod, container(&bed, "long", "sleep 1000")).unwrap();
    start(&life, &long).unwrap();
    let short = create(&life, &pod, container(&bed, "short", "exit 7")).unwrap();
    start(&life, &short).unwrap();
    life.wait_exit(&short);
    life.stop_container(api::StopContainerRequest {
        container_id: long.clone(),
        timeout: 0,
    })
    .unwrap();
    life.remove_container(api::RemoveContainerRequest {
        container_id: long.clone(),
    })
    .unwrap();
    life.remove_pod(&pod);
    // Again: nothing changes, nothing is told.
    life.remove_pod(&pod);
    let wanted = [
        (&pod, Created),
        (&pod, Started),
        (&long, Created),
        (&long, Started),
        (&short, Created),
        (&short, Started),
        (&short, Stopped),
        (&long, Stopped),
        (&long, Deleted),
        (&pod, Stopped),
        (&short, Deleted),
        (&pod, Deleted),
    ];
    for events in [&mut one, &mut two] {
        let told: Vec<_> = wanted.iter().map(|_| next(&life, events)).collect();
        let seen: Vec<_> = told
            .iter()
            .map(|e| (&e.container_id, e.container_event_type()))
            .collect();
        assert_eq!(seen, wanted);
        assert!(told.windows(2).all(|pair| pair[0].created_at < pair[1].created_at));
        for event in &told {
            let status = event.pod_sandbox_status.as_ref().unwrap();
            assert_eq!(status.id, pod);
        }
        let code = |event: &api::ContainerEventResponse| {
            let statuses = &event.containers_statuses;
            statuses
                .iter()
                .find(|status| status.id == short)
                .map(|status| (status.state(), status.exit_code))
        };
        assert_eq!(code(&told[6]), Some((api::ContainerState::ContainerExited, 7)));
        assert_eq!(told[8].containers_statuses.len(), 1, "{:?}", told[8]);
        let ready = |event: &api::ContainerEventResponse| event.pod_sandbox_status.as_ref().unwrap().state();
        assert_eq!(ready(&told[1]), api::PodSandboxState::SandboxReady);
        assert_eq!(ready(&told[9]), api::PodSandboxState::SandboxNotready);
        let more = life.run(async { tokio::time::timeout(Duration::from_millis(100), events.next()).await });
        assert!(more.is_err(), "{more:?}");
    }
    bed.assert_clean();
}

#[test]
fn a_streamed_list_has_each_object_once_and_ends() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    macro_rules! all {
        ($method:ident($request:expr) -> $field:ident) => {
            life.run(async {
                let stream = life.services().$method(Request::new($request)).await.unwrap();
                let messages: Vec<_> = stream.into_inner().collect().await;
                let messages: Vec<_> = messages
                    .into_iter()
                    .map(|message| message.unwrap().$field)
                    .collect();
                assert!(
                    messages.iter().all(|message| !message.is_empty()),
                    "an empty message"
                );
                messages.concat()
            })
        };
    }
    assert!(all!(stream_containers(api::StreamContainersRequest::default()) -> containers).is_empty());
    let mut made: HashMap<String, Vec<String>> = HashMap::new();
    for name in ["a", "b"] {
        let id = run(&life, pod(&bed, name));
        let ids: Vec<String> = ["x", "y"]
            .iter()
            .map(|c| {
                let id = create(&life, &id, container(&bed, c, "sleep 1000")).unwrap();
                start(&life, &id).unwrap();
                id
            })
            .collect();
        made.insert(id, ids);
    }
    let pods = all!(stream_pod_sandboxes(api::StreamPodSandboxesRequest::default()) -> pod_sandboxes);
    assert_eq!(pods.len(), 2);
    assert_eq!(pods, life.list_pod_sandbox(Default::default()).unwrap().items);
    let containers = all!(stream_containers(api::StreamContainersRequest::default()) -> containers);
    assert_eq!(containers.len(), 4);
    assert_eq!(containers, life.list_containers(Default::default()).unwrap().containers);
    let (pod, wanted) = made.iter().next().unwrap();
    let filter = api::ContainerFilter {
        pod_sandbox_id: pod.clone(),
        ..Default::default()
    };
    let filtered = all!(stream_containers(api::StreamContainersRequest { filter: Some(filter) }) -> containers);
    let ids: HashSet<_> = filtered.iter().map(|c| &c.id).collect();
    assert_eq!(ids, wanted.iter().collect());
    let stats = all!(stream_container_stats(api::StreamContainerStatsRequest::default()) -> container_stats);
    assert_eq!(stats.len(), 4);
    let stats = all!(stream_pod_sandbox_stats(api::StreamPodSandboxStatsRequest::default()) -> pod_sandbox_stats);
    assert_eq!(stats.len(), 2);
    let metrics = all!(stream_pod_sandbox_metrics(api::StreamPodSandboxMetricsRequest {}) -> pod_sandbox_metrics);
    assert_eq!(metrics.len(), 2);
    let images = all!(stream_images(api::StreamImagesRequest::default()) -> images);
    assert_eq!(images.len(), 1);
    for pod in made.keys() {
        life.remove_pod(pod);
    }
    bed.assert_clean();
}

#[test]
fn a_pods_statistics_are_those_of_its_cgroup_network_and_containers() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let mut config = pod(&bed, "stats");
    config.labels = [("app".to_owned(), "a".to_owned())].into();
    let id = run(&life, config);
    let busy = create(
        &life,
        &id,
        container(&bed, "busy", "sleep 1000 & sleep 1000 & while :; do :; done"),
    )
    .unwrap();
    start(&life, &busy).unwrap();
    let other = run(&life, pod(&bed, "other"));
    let one = |id: &str| {
        let request = api::PodSandboxStatsRequest {
            pod_sandbox_id: id.into(),
        };
        life.pod_sandbox_stats(request).map(|reply| reply.stats.unwrap())
    };
    let first = one(&id).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let second = one(&id).unwrap();
    assert_eq!(second.attributes.as_ref().unwrap().labels["app"], "a");
    let (first, second) = (first.linux.unwrap(), second.linux.unwrap());
    let used = |stats: &api::LinuxPodSandboxStats| stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value;
    assert!(used(&second) > used(&first) + 20_000_000);
    assert!(second.cpu.unwrap().usage_nano_cores.unwrap().value > 10_000_000);
    assert!(second.memory.unwrap().working_set_bytes.unwrap().value > 0);
    assert_eq!(second.process.unwrap().process_count.unwrap().value, 3);
    assert_eq!(second.containers.len(), 1);
    assert_eq!(second.containers[0].attributes.as_ref().unwrap().id, busy);
    // The bed's plugin makes no interface: the namespace has `lo` alone.
    let network = second.network.unwrap();
    assert!(
        network.default_interface.is_none() && network.interfaces.is_empty(),
        "{network:?}"
    );
    // The kernel keeps pressure: then it is told.
    let kept = std::path::Path::new("/proc/pressure/io").exists();
    assert_eq!(second.cpu.unwrap().psi.is_some(), kept);
    assert_eq!(second.io.is_some_and(|io| io.psi.is_some()), kept);
    let list = |filter: api::PodSandboxStatsFilter| -> Vec<String> {
        let request = api::ListPodSandboxStatsRequest { filter: Some(filter) };
        let stats = life.list_pod_sandbox_stats(request).unwrap().stats;
        stats.into_iter().map(|stats| stats.attributes.unwrap().id).collect()
    };
    assert_eq!(list(Default::default()).len(), 2);
    let by_label = api::PodSandboxStatsFilter {
        label_selector: [("app".to_owned(), "a".to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(list(by_label), std::slice::from_ref(&id));
    let by_id = api::PodSandboxStatsFilter {
        id: other.clone(),
        ..Default::default()
    };
    assert_eq!(list(by_id), std::slice::from_ref(&other));
    assert_eq!(one(&"0".repeat(64)).unwrap_err().code(), Code::NotFound);
    life.stop_pod_sandbox(api::StopPodSandboxRequest {
        pod_sandbox_id: other.clone(),
    })
    .unwrap();
    assert!(one(&other).unwrap().linux.is_none());
    assert_eq!(list(Default::default()), std::slice::from_ref(&id));
    life.remove_pod(&id);
    life.remove_pod(&other);
    bed.assert_clean();
}

#[test]
fn metrics_have_the_labels_of_their_descriptors_and_never_go_back() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let id = run(&life, pod(&bed, "metrics"));
    let mut config = container(
        &bed,
        "c",
        "ulimit -n 1000; sleep 1000 & i=0; while :; do i=$((i+1)); done",
    );
    config.linux.as_mut().unwrap().resources = Some(api::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let c = create(&life, &id, config).unwrap();
    start(&life, &c).unwrap();
    let descriptors = life.list_metric_descriptors(Default::default()).unwrap().descriptors;
    let keys: HashMap<_, _> = descriptors.into_iter().map(|d| (d.name, d.label_keys)).collect();
    assert_eq!(keys.len(), 56);
    let read = || {
        let pods = life.list_pod_sandbox_metrics(Default::default()).unwrap().pod_metrics;
        assert_eq!((pods.len(), pods[0].pod_sandbox_id.as_str()), (1, id.as_str()));
        assert_eq!(pods[0].container_metrics[0].container_id, c);
        pods[0].container_metrics[0].metrics.clone()
    };
    let value = |all: &[api::Metric], name: &str| {
        let found = all.iter().find(|metric| metric.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).value.unwrap().value
    };
    // A loop with a fifth of a CPU is throttled all the time; whole seconds are told.
    let until = Instant::now() + Duration::from_secs(20);
    while value(&read(), "container_cpu_cfs_throttled_seconds_total") == 0 {
        assert!(Instant::now() < until, "it is not throttled");
        std::thread::sleep(Duration::from_millis(200));
    }
    let (first, second) = (read(), read());
    for metric in &first {
        assert_eq!(metric.label_values.len(), keys[&metric.name].len(), "{metric:?}");
        assert_eq!(
            metric.label_values[..5],
            [c.as_str(), bed.image.as_str(), "default", "metrics", "c"]
        );
        if metric.metric_type() == api::MetricType::Counter {
            let again = second
                .iter()
                .find(|m| m.name == metric.name && m.label_values == metric.label_values);
            assert!(
                again.unwrap().value.unwrap().value >= metric.value.unwrap().value,
                "{metric:?}"
            );
        }
    }
    for (name, wanted) in [
        ("container_spec_cpu_quota", 20_000),
        ("container_spec_cpu_period", 100_000),
        ("container_spec_cpu_shares", 1024),
        ("container_spec_memory_limit_bytes", 64 << 20),
        ("container_processes", 2),
        ("container_threads", 2),
        ("container_oom_events_total", 0),
        ("container_ulimits_soft", 1000),
    ] {
        assert_eq!(value(&first, name), wanted, "{name}");
    }
    for name in [
        "container_cpu_cfs_throttled_periods_total",
        "container_memory_usage_bytes",
        "container_memory_max_usage_bytes",
        "container_file_descriptors",
        "container_fs_limit_bytes",
        "container_fs_inodes_free",
        "container_last_seen",
        "container_start_time_seconds",
    ] {
        assert!(value(&first, name) > 0, "{name}");
    }
    let started = u64::try_from(life.state(&c).started_at / 1_000_000_000).unwrap();
    assert_eq!(value(&first, "container_start_time_seconds"), started);
    life.remove_pod(&id);
    assert!(
        life.list_pod_sandbox_metrics(Default::default())
            .unwrap()
            .pod_metrics
            .is_empty()
    );
    bed.assert_clean();
}

#[test]
fn verbose_answers_have_the_keys_that_tools_read() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let id = run(&life, pod(&bed, "verbose"));
    let c = create(&life, &id, container(&bed, "c", "sleep 1000")).unwrap();
    start(&life, &c).unwrap();
    let parse = |text: &String| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let request = api::ContainerStatusRequest {
        container_id: c.clone(),
        verbose: true,
    };
    let info = parse(&life.container_status(request).unwrap().info["info"]);
    assert_eq!(info["sandboxID"], id.as_str());
    assert!(info["pid"].as_i64().unwrap() > 1 && info["privileged"] == false);
    assert_eq!(info["runtimeSpec"]["process"]["args"][0], "/bin/sh");
    let request = api::PodSandboxStatusRequest {
        pod_sandbox_id: id.clone(),
        verbose: true,
    };
    let reply = life.pod_sandbox_status(request).unwrap();
    let info = parse(&reply.info["info"]);
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
    let network = namespaces
        .iter()
        .find(|namespace| namespace["type"] == "network")
        .unwrap();
    assert!(std::path::Path::new(network["path"].as_str().unwrap()).exists());
    assert!(info["pid"].is_number());
    // The time and the containers go together (kubernetes #129818).
    assert!(reply.timestamp > 0);
    assert_eq!(reply.containers_statuses[0].id, c);
    let status = life.status(api::StatusRequest { verbose: true }).unwrap().info;
    let config = parse(&status["config"]);
    assert_eq!(config["stateDir"], bed.path("state").display().to_string());
    let network = parse(&status["cniconfig"]);
    assert_eq!(network["Networks"][0]["Config"]["Name"], "fake");
    assert_eq!(parse(&status["lastCNILoadStatus"]), "OK");
    life.remove_pod(&id);
    bed.assert_clean();
}

#[test]
fn what_comes_later_says_so_by_its_own_name() {
    let bed = Bed::new();
    let life = bed.start();
    let refused = [
        (
            "CheckpointContainer",
            life.checkpoint_container(Default::default()).unwrap_err(),
        ),
        ("CheckpointPod", life.checkpoint_pod(Default::default()).unwrap_err()),
        ("RestorePod", life.restore_pod(Default::default()).unwrap_err()),
    ];
    for (name, status) in refused {
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains(name), "{status:?}");
    }
    let cidr = |text: &str| {
        life.update_runtime_config(api::UpdateRuntimeConfigRequest {
            runtime_config: Some(api::RuntimeConfig {
                network_config: Some(api::NetworkConfig { pod_cidr: text.into() }),
            }),
        })
    };
    cidr("10.1.0.0/24,fd00::/64").unwrap();
    assert_eq!(cidr("ten").unwrap_err().code(), Code::InvalidArgument);
    let info = life.status(api::StatusRequest { verbose: true }).unwrap().info;
    assert_eq!(info["podCIDR"], "\"10.1.0.0/24,fd00::/64\"");
    assert_eq!(
        life.runtime_config(Default::default())
            .unwrap()
            .linux
            .unwrap()
            .cgroup_driver(),
        api::CgroupDriver::Cgroupfs
    );
}
