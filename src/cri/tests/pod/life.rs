//! Pods and containers from their first call to their last, restarts in between.

use crate::bed::{Bed, container, create, pod, run, start};
use proto::cri as api;
use std::time::{Duration, Instant};

#[test]
fn a_pod_lives_and_goes() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "first"));
    let status = life
        .pod_sandbox_status(api::PodSandboxStatusRequest {
            pod_sandbox_id: pod.clone(),
            verbose: true,
        })
        .unwrap();
    assert_eq!(
        status.status.as_ref().unwrap().network.as_ref().unwrap().ip,
        "10.99.0.7"
    );
    assert_eq!(status.status.unwrap().state(), api::PodSandboxState::SandboxReady);

    let id = create(
        &life,
        &pod,
        container(
            &bed,
            "c",
            "trap 'exit 143' TERM; echo hello; echo oops >&2; sleep 1000 & wait",
        ),
    )
    .unwrap();
    let before = life.state(&id);
    assert_eq!(
        (before.state(), before.started_at),
        (api::ContainerState::ContainerCreated, 0)
    );
    start(&life, &id).unwrap();
    let running = life.state(&id);
    assert_eq!(running.state(), api::ContainerState::ContainerRunning);
    assert!(running.started_at >= running.created_at && running.finished_at == 0);

    let out = life.exec(
        &id,
        "echo $FROM $HOSTNAME; cat /etc/hostname /etc/resolv.conf >/dev/null; echo err >&2; exit 7",
    );
    assert_eq!(
        (&out.stdout[..], &out.stderr[..], out.exit_code),
        (&b"image first\n"[..], &b"err\n"[..], 7)
    );
    let log = std::fs::read_to_string(bed.path("logs/first/c.log")).unwrap();
    assert!(
        log.contains(" stdout F hello\n") && log.contains(" stderr F oops\n"),
        "{log}"
    );
    let stats = life
        .list_container_stats(api::ListContainerStatsRequest::default())
        .unwrap()
        .stats;
    assert_eq!(stats.len(), 1);
    assert!(
        stats[0]
            .memory
            .as_ref()
            .unwrap()
            .working_set_bytes
            .as_ref()
            .unwrap()
            .value
            > 0
    );

    let began = Instant::now();
    life.stop_container(api::StopContainerRequest {
        container_id: id.clone(),
        timeout: 10,
    })
    .unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    let ended = life.state(&id);
    assert_eq!(
        (ended.state(), ended.exit_code),
        (api::ContainerState::ContainerExited, 143)
    );
    assert!(ended.finished_at >= ended.started_at);
    life.remove_pod(&pod);
    assert!(life.list_pod_sandbox(Default::default()).unwrap().items.is_empty());
    assert!(life.list_containers(Default::default()).unwrap().containers.is_empty());
    assert_eq!(bed.cni_calls(&pod), ["ADD", "DEL"]);
    bed.assert_clean();
}

#[test]
fn exit_codes_are_exact() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "codes"));
    for (n, (script, code, reason)) in [("exit 0", 0, "Completed"), ("exit 7", 7, "Error")]
        .into_iter()
        .enumerate()
    {
        let id = create(&life, &pod, container(&bed, &format!("c{n}"), script)).unwrap();
        start(&life, &id).unwrap();
        let status = life.wait_exit(&id);
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{script}");
        assert!(status.finished_at >= status.started_at && status.started_at > 0);
    }
    let id = create(&life, &pod, container(&bed, "killed", "exec sleep 1000")).unwrap();
    start(&life, &id).unwrap();
    life.stop_container(api::StopContainerRequest {
        container_id: id.clone(),
        timeout: 0,
    })
    .unwrap();
    let status = life.state(&id);
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_new_daemon_finds_everything() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "restart"));
    let stays = create(&life, &pod, container(&bed, "stays", "exec sleep 1000")).unwrap();
    let ends = create(
        &life,
        &pod,
        container(&bed, "ends", "read x < /dev/zero & sleep 1; exit 9"),
    )
    .unwrap();
    let waits = create(&life, &pod, container(&bed, "waits", "exit 0")).unwrap();
    start(&life, &stays).unwrap();
    start(&life, &ends).unwrap();
    let before = life.state(&stays);
    drop(life);
    std::thread::sleep(Duration::from_millis(1500));

    let life = bed.start();
    assert_eq!(life.state(&stays), before);
    let ended = life.wait_exit(&ends);
    assert_eq!((ended.exit_code, ended.reason.as_str()), (9, "Error"));
    let took = ended.finished_at - ended.started_at;
    assert!(
        (900_000_000..1_450_000_000).contains(&took),
        "the real time of the exit: {took}"
    );
    assert_eq!(life.exec(&stays, "echo still here").stdout, &b"still here\n"[..]);
    start(&life, &waits).unwrap();
    assert_eq!(life.wait_exit(&waits).exit_code, 0);
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn bad_requests_leave_nothing() {
    use tonic::Code;
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let unknown = "0".repeat(64);
    assert_eq!(start(&life, &unknown).unwrap_err().code(), Code::NotFound);
    life.stop_container(api::StopContainerRequest {
        container_id: unknown.clone(),
        timeout: 0,
    })
    .unwrap();
    life.remove_container(api::RemoveContainerRequest {
        container_id: unknown.clone(),
    })
    .unwrap();
    life.remove_pod(&unknown);
    let request = api::RunPodSandboxRequest {
        config: Some(pod(&bed, "x")),
        runtime_handler: "kata".into(),
    };
    assert_eq!(life.run_pod_sandbox(request).unwrap_err().code(), Code::NotFound);
    assert_eq!(
        life.run_pod_sandbox(Default::default()).unwrap_err().code(),
        Code::InvalidArgument
    );

    let id = run(&life, pod(&bed, "bad"));
    // The same request again is the same pod; another one under its name is refused.
    assert_eq!(run(&life, pod(&bed, "bad")), id);
    let mut other = pod(&bed, "bad");
    other.labels.insert("a".into(), "b".into());
    let request = api::RunPodSandboxRequest {
        config: Some(other),
        runtime_handler: String::new(),
    };
    assert_eq!(life.run_pod_sandbox(request).unwrap_err().code(), Code::AlreadyExists);

    let mut config = container(&bed, "image", "true");
    config.image = Some(api::ImageSpec {
        image: "127.0.0.1:1/none:1".into(),
        ..Default::default()
    });
    assert_eq!(create(&life, &id, config).unwrap_err().code(), Code::NotFound);
    let mut config = container(&bed, "user", "true");
    config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .run_as_username = "nobody-here".into();
    assert_eq!(create(&life, &id, config).unwrap_err().code(), Code::InvalidArgument);
    for (name, change) in [
        (
            "program",
            (|c: &mut api::ContainerConfig| c.command = vec!["/no/such".into()]) as fn(&mut api::ContainerConfig),
        ),
        ("noexec", |c| c.command = vec!["/etc/passwd".into()]),
    ] {
        let mut config = container(&bed, name, "true");
        change(&mut config);
        let failed = create(&life, &id, config).and_then(|c| {
            start(&life, &c).inspect_err(|_| {
                let status = life.state(&c);
                assert_eq!(
                    (status.exit_code, status.reason.as_str()),
                    (128, "StartError"),
                    "{status:?}"
                );
            })
        });
        let failed = failed.unwrap_err();
        assert_eq!(failed.code(), Code::InvalidArgument, "{name}: {failed:?}");
    }
    life.remove_pod(&id);
    bed.assert_clean();
}

#[test]
fn a_network_that_fails_is_undone() {
    let bed = Bed::new();
    let life = bed.start();
    std::fs::write(bed.path("bin/fail-ADD"), "").unwrap();
    let request = api::RunPodSandboxRequest {
        config: Some(pod(&bed, "net")),
        runtime_handler: String::new(),
    };
    let error = life.run_pod_sandbox(request.clone()).unwrap_err();
    assert!(error.message().contains("told to fail"), "{error:?}");
    assert!(life.list_pod_sandbox(Default::default()).unwrap().items.is_empty());
    bed.assert_clean();
    std::fs::remove_file(bed.path("bin/fail-ADD")).unwrap();
    let id = life.run_pod_sandbox(request).unwrap().pod_sandbox_id;
    // DEL is repeated until it succeeds.
    std::fs::write(bed.path("bin/fail-DEL"), "").unwrap();
    assert!(
        life.stop_pod_sandbox(api::StopPodSandboxRequest {
            pod_sandbox_id: id.clone()
        })
        .is_err()
    );
    std::fs::remove_file(bed.path("bin/fail-DEL")).unwrap();
    life.remove_pod(&id);
    bed.assert_clean();
}

#[test]
fn exec_sync_keeps_its_promises() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "exec"));
    let id = create(&life, &pod, container(&bed, "c", "exec sleep 1000")).unwrap();
    start(&life, &id).unwrap();
    let cmd = |script: &str| vec!["/bin/sh".into(), "-c".into(), script.into()];
    let began = Instant::now();
    let request = api::ExecSyncRequest {
        container_id: id.clone(),
        cmd: cmd("sleep 60"),
        timeout: 1,
    };
    assert_eq!(
        life.exec_sync(request).unwrap_err().code(),
        tonic::Code::DeadlineExceeded
    );
    assert!(began.elapsed() < Duration::from_secs(3));
    // A grandchild that holds the pipe does not hold the answer.
    let began = Instant::now();
    let out = life.exec(&id, "echo out; sleep 30 & exit 3");
    assert_eq!((&out.stdout[..], out.exit_code), (&b"out\n"[..], 3));
    assert!(began.elapsed() < Duration::from_secs(5));
    // What fits into a message of 16 MiB is kept, the rest is thrown away and nobody is held up.
    let out = life.exec(&id, "i=0; while [ $i -lt 300 ]; do cat /bin/sh; i=$((i+1)); done");
    assert_eq!((out.stdout.len(), out.exit_code), ((16 << 20) - 64, 0));
    let missing = api::ExecSyncRequest {
        container_id: id,
        cmd: vec!["/no/such".into()],
        timeout: 1,
    };
    assert_eq!(
        life.exec_sync(missing).unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
    life.remove_pod(&pod);
    bed.assert_clean();
}

#[test]
fn a_stop_that_comes_too_early_is_heard_all_the_same() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let pod = run(&life, pod(&bed, "early"));
    let script = "sleep 1; trap 'exit 5' TERM; while :; do sleep 0.1; done";
    let id = create(&life, &pod, container(&bed, "c", script)).unwrap();
    start(&life, &id).unwrap();
    let began = Instant::now();
    life.stop_container(api::StopContainerRequest {
        container_id: id.clone(),
        timeout: 20,
    })
    .unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(life.state(&id).exit_code, 5);
    life.remove_pod(&pod);
    bed.assert_clean();
}
