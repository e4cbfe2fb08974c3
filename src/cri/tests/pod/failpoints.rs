//! kill -9 at every step of every verb, then a new daemon: nothing leaked, nothing that was
//! acknowledged lost, other containers untouched.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use proto::cri as api;

use crate::bed::{Bed, container, create, pod, run, start};

const STEPS: [&str; 23] = [
    "run_pod.record",
    "run_pod.cgroup",
    "run_pod.files",
    "run_pod.namespaces",
    "run_pod.network",
    "run_pod.network_added",
    "run_pod.committed",
    "create_container.record",
    "create_container.snapshot",
    "create_container.bundle",
    "create_container.monitor",
    "create_container.created",
    "create_container.committed",
    "start_container.before",
    "start_container.started",
    "stop_pod.not_ready",
    "stop_pod.containers",
    "stop_pod.network",
    "remove_pod.removing",
    "remove_pod.containers",
    "remove_pod.files",
    "remove_container.removing",
    "remove_container.stopped",
];

/// Run in a process of its own, with a fail point that kills it.
#[test]
#[ignore = "the victim of the test below"]
fn victim() {
    let bed = Bed::guest(&std::env::var("BULKHEAD_TEST_BED").unwrap());
    let life = bed.start();
    let pod = run(&life, pod(&bed, "victim"));
    std::fs::write(bed.path("ack"), &pod).unwrap();
    let id = create(&life, &pod, container(&bed, "c", "exec sleep 1000")).unwrap();
    start(&life, &id).unwrap();
    life.remove_pod(&pod);
}

fn die_at(bed: &Bed, step: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "failpoints::victim", "--ignored", "--test-threads=1"])
        .env("BULKHEAD_TEST_BED", bed.address())
        .env("BULKHEAD_FAILPOINT", format!("{step}=kill"))
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(
        status.signal(),
        Some(9),
        "{step}: the daemon was not killed there: {status}"
    );
}

#[test]
fn death_at_every_step() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let steady = run(&life, pod(&bed, "steady"));
    let runs = create(&life, &steady, container(&bed, "c", "exec sleep 1000")).unwrap();
    start(&life, &runs).unwrap();
    let before = life.state(&runs);
    drop(life);
    for step in STEPS {
        drop(std::fs::remove_file(bed.path("ack")));
        die_at(&bed, step);
        let life = bed.start();
        assert_eq!(life.state(&runs), before, "{step}");
        assert_eq!(life.exec(&runs, "echo fine").stdout, &b"fine\n"[..], "{step}");
        let pods = life.list_pod_sandbox(Default::default()).unwrap().items;
        let acknowledged = std::fs::read_to_string(bed.path("ack")).ok();
        if let Some(id) = &acknowledged
            && !step.starts_with("remove_pod")
            && !step.starts_with("remove_container")
        {
            assert!(pods.iter().any(|p| p.id == *id), "{step}: an acknowledged pod is lost");
        }
        for pod in pods.iter().filter(|p| p.id != steady) {
            // Usable or stoppable, whatever it is; and the name is free afterwards.
            for container in life.list_containers(Default::default()).unwrap().containers {
                if container.pod_sandbox_id == pod.id {
                    let state = life.state(&container.id);
                    assert!(state.created_at > 0, "{step}: {state:?}");
                }
            }
            life.remove_pod(&pod.id);
        }
        let left = life
            .list_containers(api::ListContainersRequest::default())
            .unwrap()
            .containers;
        assert_eq!(left.len(), 1, "{step}: {left:?}");
        bed.assert_only(&steady, &runs);
    }
    let life = bed.start();
    life.remove_pod(&steady);
    bed.assert_clean();
}
