//! UpdateContainerResources and UpdatePodSandboxResources.

use proto::cri as api;
use tonic::Code;

use crate::bed::{Bed, Life, container, create, pod, run, start};

const MIB: i64 = 1 << 20;

fn limits(memory: i64) -> api::LinuxContainerResources {
    api::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 333,
        memory_limit_in_bytes: memory,
        ..Default::default()
    }
}

fn resize(life: &Life, id: &str, linux: api::LinuxContainerResources) -> Result<(), tonic::Status> {
    life.update_container_resources(api::UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(linux),
        ..Default::default()
    })
    .map(drop)
}

fn told(life: &Life, id: &str) -> api::LinuxContainerResources {
    life.state(id).resources.unwrap().linux.unwrap()
}

/// The cgroup that the container's verbose status names.
fn details(life: &Life, id: &str) -> (cgroup::Details, serde_json::Value) {
    let request = api::ContainerStatusRequest {
        container_id: id.into(),
        verbose: true,
    };
    let info = life.container_status(request).unwrap().info["info"].clone();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let group = cgroup::Host::detect()
        .unwrap()
        .open(info["cgroup"].as_str().unwrap())
        .unwrap();
    (group.details().unwrap(), info)
}

#[test]
fn a_running_container_is_resized_and_the_next_daemon_knows() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "resize"));
    let mut config = container(&bed, "c", "sleep 1000");
    config.linux.as_mut().unwrap().resources = Some(limits(64 * MIB));
    let id = create(&life, &pod, config).unwrap();
    start(&life, &id).unwrap();
    assert_eq!(told(&life, &id), limits(64 * MIB));

    resize(&life, &id, limits(128 * MIB)).unwrap();
    let smaller = api::LinuxContainerResources {
        cpu_quota: 20_000,
        memory_limit_in_bytes: 96 * MIB,
        cpuset_cpus: "0".into(),
        ..Default::default()
    };
    resize(&life, &id, smaller).unwrap();
    let wanted = api::LinuxContainerResources {
        cpu_quota: 20_000,
        cpuset_cpus: "0".into(),
        ..limits(96 * MIB)
    };
    assert_eq!(told(&life, &id), wanted);
    let (held, info) = details(&life, &id);
    assert_eq!((held.memory_limit, held.cpu_quota), (Some(96 << 20), Some(20_000)));
    let spec = &info["runtimeSpec"]["linux"]["resources"];
    assert_eq!(
        (&spec["memory"]["limit"], &spec["cpu"]["quota"]),
        (&(96 * MIB).into(), &20_000.into())
    );
    assert!(spec["devices"].is_array(), "{spec}");

    drop(life);
    let life = bed.start();
    assert_eq!(told(&life, &id), wanted);
    assert_eq!(life.exec(&id, "exit 3").exit_code, 3);
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_resize_that_is_refused_changes_nothing() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "refused"));
    let mut config = container(
        &bed,
        "c",
        "a=x; i=0; while [ $i -lt 25 ]; do a=$a$a; i=$((i+1)); done; echo ready; while :; do sleep 1; done",
    );
    config.linux.as_mut().unwrap().resources = Some(limits(256 * MIB));
    let id = create(&life, &pod, config).unwrap();
    start(&life, &id).unwrap();
    let log = bed.path("logs/refused/c.log");
    while !std::fs::read_to_string(&log).unwrap_or_default().contains("ready") {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Below the 32 MB that the shell keeps; a CPU that no machine has; a period out of range, found only after the memory was written.
    let too_small = resize(&life, &id, limits(8 * MIB)).unwrap_err();
    assert!(too_small.message().contains("bytes in use"), "{too_small:?}");
    let no_such_cpu = api::LinuxContainerResources {
        cpuset_cpus: "4000".into(),
        ..Default::default()
    };
    let bad_period = api::LinuxContainerResources {
        cpu_period: 7,
        ..limits(512 * MIB)
    };
    for bad in [no_such_cpu, bad_period] {
        let error = resize(&life, &id, bad.clone()).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{bad:?}: {error:?}");
    }
    assert_eq!(too_small.code(), Code::InvalidArgument);
    assert_eq!(told(&life, &id), limits(256 * MIB));
    let (held, _) = details(&life, &id);
    assert_eq!((held.memory_limit, held.cpu_period), (Some(256 << 20), Some(100_000)));
    assert_eq!(life.state(&id).state(), api::ContainerState::ContainerRunning);

    let unknown = resize(&life, &"0".repeat(64), limits(64 * MIB)).unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    life.stop_container(api::StopContainerRequest {
        container_id: id.clone(),
        timeout: 0,
    })
    .unwrap();
    let ended = resize(&life, &id, limits(64 * MIB)).unwrap_err();
    assert_eq!(ended.code(), Code::FailedPrecondition, "{ended:?}");
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_container_that_waits_for_its_start_is_resized_too() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "early"));
    let id = create(&life, &pod, container(&bed, "c", "sleep 1000")).unwrap();
    resize(&life, &id, limits(64 * MIB)).unwrap();
    start(&life, &id).unwrap();
    assert_eq!(details(&life, &id).0.memory_limit, Some(64 << 20));
    assert_eq!(told(&life, &id), limits(64 * MIB));
    let higher = api::LinuxContainerResources {
        oom_score_adj: 777,
        ..Default::default()
    };
    resize(&life, &id, higher).unwrap();
    assert_eq!(life.exec(&id, "cat /proc/1/oom_score_adj").stdout, b"777\n".as_slice());
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_pods_resources_are_kept_and_applied_where_the_cgroup_is_ours() {
    let bed = Bed::new();
    let life = bed.start();
    let mut config = pod(&bed, "sum");
    config.linux = Some(api::LinuxPodSandboxConfig {
        overhead: Some(limits(8 * MIB)),
        resources: Some(limits(32 * MIB)),
        ..Default::default()
    });
    let id = run(&life, config);
    let request = api::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.clone(),
        overhead: Some(limits(16 * MIB)),
        resources: Some(limits(64 * MIB)),
    };
    let info = |life: &Life| -> serde_json::Value {
        let request = api::PodSandboxStatusRequest {
            pod_sandbox_id: id.clone(),
            verbose: true,
        };
        serde_json::from_str(&life.pod_sandbox_status(request).unwrap().info["info"]).unwrap()
    };
    let shown = info(&life);
    let group = cgroup::Host::detect()
        .unwrap()
        .open(shown["cgroup"].as_str().unwrap())
        .unwrap();
    let memory = || group.details().unwrap().memory_limit;
    assert_eq!(memory(), Some(40 << 20));
    assert_eq!(shown["resources"]["overhead"]["memory_limit_in_bytes"], 8 * MIB);
    life.update_pod_sandbox_resources(request.clone()).unwrap();
    assert_eq!(
        (memory(), group.details().unwrap().cpu_quota),
        (Some(80 << 20), Some(100_000))
    );
    drop(life);
    let life = bed.start();
    let shown = info(&life);
    assert_eq!(shown["resources"]["overhead"]["memory_limit_in_bytes"], 16 * MIB);
    assert_eq!(shown["resources"]["resources"]["cpu_shares"], 333);
    let unknown = api::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: "0".repeat(64),
        ..request.clone()
    };
    assert_eq!(
        life.update_pod_sandbox_resources(unknown).unwrap_err().code(),
        Code::NotFound
    );
    life.stop_pod_sandbox(api::StopPodSandboxRequest {
        pod_sandbox_id: id.clone(),
    })
    .unwrap();
    let stopped = life.update_pod_sandbox_resources(request).unwrap_err();
    assert_eq!(stopped.code(), Code::FailedPrecondition);
    life.remove_pod(&id);
    bed.assert_clean();
}
