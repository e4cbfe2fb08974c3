//! The daemon dies in the middle; many callers at once; callers that leave.

use std::time::{Duration, Instant};

use proto::cri as api;
use proto::cri::runtime_service_server::RuntimeService;
use tonic::Request;

use crate::bed::{Bed, container, create, pod, run, start};

#[test]
fn a_caller_that_leaves_finds_its_pod_with_the_retry() {
    let bed = Bed::new();
    let life = bed.start();
    std::fs::write(bed.path("bin/slow-ADD"), "").unwrap();
    let message = api::RunPodSandboxRequest {
        config: Some(pod(&bed, "slow")),
        runtime_handler: String::new(),
    };
    let mut request = Request::new(message.clone());
    request.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let services = life.services();
    let left = life.run(async { services.run_pod_sandbox(request).await });
    assert_eq!(left.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    // While it runs, the same request joins; afterwards it is found.
    let id = life.run_pod_sandbox(message.clone()).unwrap().pod_sandbox_id;
    assert_eq!(life.run_pod_sandbox(message).unwrap().pod_sandbox_id, id);
    assert_eq!(life.list_pod_sandbox(Default::default()).unwrap().items.len(), 1);
    assert_eq!(bed.cni_calls(&id), ["ADD"]);
    life.remove_pod(&id);
    bed.assert_clean();
}

#[test]
fn a_half_made_pod_is_taken_down_by_the_next_daemon() {
    let bed = Bed::new();
    let life = bed.start();
    std::fs::write(bed.path("bin/slow-ADD"), "").unwrap();
    let message = api::RunPodSandboxRequest {
        config: Some(pod(&bed, "half")),
        runtime_handler: String::new(),
    };
    let mut request = Request::new(message);
    request.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let services = life.services();
    assert!(life.run(async { services.run_pod_sandbox(request).await }).is_err());
    drop(services);
    drop(life); // in the middle of ADD
    std::fs::remove_file(bed.path("bin/slow-ADD")).unwrap();
    let life = bed.start();
    assert!(life.list_pod_sandbox(Default::default()).unwrap().items.is_empty());
    bed.assert_clean();
    // And the name is free.
    let id = run(&life, pod(&bed, "half"));
    life.remove_pod(&id);
    bed.assert_clean();
}

#[test]
fn a_lost_monitor_is_255_and_nothing_survives_it() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "lost"));
    let id = create(&life, &pod, container(&bed, "c", "exec sleep 1000")).unwrap();
    start(&life, &id).unwrap();
    let request = api::ContainerStatusRequest {
        container_id: id.clone(),
        verbose: true,
    };
    let info = life.container_status(request).unwrap().info["info"].clone();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let init = info["pid"].as_i64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
    let monitor: i32 = stat
        .rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(monitor).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let status = life.wait_exit(&id);
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    let until = Instant::now() + Duration::from_secs(5);
    let alive = || std::fs::read_to_string(format!("/proc/{init}/stat")).is_ok_and(|s| !s.contains(") Z "));
    while alive() {
        assert!(Instant::now() < until, "the container outlived its monitor");
        std::thread::sleep(Duration::from_millis(20));
    }
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn ten_callers_at_once() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    std::thread::scope(|scope| {
        for caller in 0..10 {
            let (bed, life) = (&bed, &life);
            scope.spawn(move || {
                for round in 0..3 {
                    let name = format!("p{caller}-{round}");
                    let pod = run(life, pod(bed, &name));
                    let id = create(life, &pod, container(bed, "c", "exit 3")).unwrap();
                    start(life, &id).unwrap();
                    assert_eq!(life.wait_exit(&id).exit_code, 3);
                    life.remove_pod(&pod);
                }
            });
        }
    });
    bed.assert_clean();
}

#[test]
fn a_stop_is_shortened_and_never_lengthened() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "stop"));
    let id = create(
        &life,
        &pod,
        container(&bed, "c", "trap '' TERM; while :; do sleep 1; done"),
    )
    .unwrap();
    start(&life, &id).unwrap();
    let stop = |timeout| {
        life.stop_container(api::StopContainerRequest {
            container_id: id.clone(),
            timeout,
        })
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| stop(1000).unwrap());
        std::thread::sleep(Duration::from_millis(200));
        // An exec still works during the grace.
        assert_eq!(life.exec(&id, "echo here").stdout, &b"here\n"[..]);
        let second = scope.spawn(|| stop(1).unwrap());
        first.join().unwrap();
        second.join().unwrap();
    });
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(1) && took < Duration::from_secs(4),
        "{took:?}"
    );
    assert_eq!(life.state(&id).exit_code, 137);
    life.remove_pod(&pod);
    bed.assert_clean();
}
