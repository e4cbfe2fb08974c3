//! How long each verb takes, printed: `cargo test -p cri --test pod pace -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use proto::cri as api;

use crate::bed::{Bed, container, create, pod, run, start};

#[expect(clippy::print_stdout, reason = "what it is for")]
fn show(name: &str, mut times: Vec<Duration>) {
    times.sort();
    println!(
        "{name:22} p50 {:8.2?}  p90 {:8.2?}",
        times[times.len() / 2],
        times[times.len() * 9 / 10]
    );
}

#[test]
#[ignore = "a measurement, not a test"]
fn pace() {
    let bed = Bed::new();
    let life = bed.start();
    life.pull(&bed);
    let mut all: Vec<(&str, Vec<Duration>)> = [
        "run",
        "create",
        "start",
        "exec",
        "stop container",
        "stop pod",
        "remove pod",
    ]
    .map(|n| (n, vec![]))
    .into();
    for n in 0..40 {
        let mut step = 0;
        let mut timed = |began: Instant| {
            all[step].1.push(began.elapsed());
            step += 1;
        };
        let mut config = pod(&bed, &format!("p{n}"));
        let options = api::NamespaceOption {
            network: if n % 2 == 0 {
                api::NamespaceMode::Pod
            } else {
                api::NamespaceMode::Node
            }
            .into(),
            pid: api::NamespaceMode::Container.into(),
            ..Default::default()
        };
        config.linux.as_mut().unwrap().security_context = Some(api::LinuxSandboxSecurityContext {
            namespace_options: Some(options),
            ..Default::default()
        });
        let began = Instant::now();
        let pod = run(&life, config);
        timed(began);
        let began = Instant::now();
        let id = create(&life, &pod, container(&bed, "c", "exec sleep 1000")).unwrap();
        timed(began);
        let began = Instant::now();
        start(&life, &id).unwrap();
        timed(began);
        let began = Instant::now();
        let cmd = vec!["/bin/true".into()];
        life.exec_sync(api::ExecSyncRequest {
            container_id: id.clone(),
            cmd,
            timeout: 5,
        })
        .unwrap();
        timed(began);
        let began = Instant::now();
        life.stop_container(api::StopContainerRequest {
            container_id: id,
            timeout: 0,
        })
        .unwrap();
        timed(began);
        let began = Instant::now();
        life.stop_pod_sandbox(api::StopPodSandboxRequest {
            pod_sandbox_id: pod.clone(),
        })
        .unwrap();
        timed(began);
        let began = Instant::now();
        life.remove_pod_sandbox(api::RemovePodSandboxRequest { pod_sandbox_id: pod })
            .unwrap();
        timed(began);
    }
    for (name, times) in all {
        show(name, times);
    }
    bed.assert_clean();
}
