use std::time::{Duration, Instant};

use proto::monitor::{self as wire, Status, event::What, reply, request::Verb};

use crate::driver::{Bundle, Connection, Spawner, until};

#[test]
fn a_container_from_birth_to_death() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("echo out; echo err >&2; exit 3");
    let mut monitor = spawner.monitor();
    assert_eq!(monitor.state().status(), Status::Creating);
    let created = bundle.create(&mut monitor).unwrap();
    assert!(created.pid > 0);
    assert_eq!((created.uid, created.gid), (0, 0));
    let state = monitor.state();
    assert_eq!(
        (state.status(), state.pid, state.started_at),
        (Status::Created, created.pid, 0)
    );
    assert_eq!(bundle.records(), "");
    let started_at = monitor.start();
    let exited = monitor.exited();
    assert_eq!(
        (
            exited.exit_code,
            exited.signal,
            exited.reason.as_str(),
            exited.oom_killed
        ),
        (3, 0, "Error", false)
    );
    assert_eq!(exited.started_at, started_at);
    assert!(exited.finished_at >= started_at);
    let record = bundle.record();
    assert_eq!(
        (record.exit_code, record.started_at, record.finished_at),
        (3, started_at, exited.finished_at)
    );
    let mut lines: Vec<String> = bundle.records().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out"]);
    monitor.end();
    bundle.check_gone();
}

#[test]
fn an_end_with_zero_and_one_by_signal() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("exit 0");
    let mut monitor = bundle.run(&spawner);
    assert_eq!(monitor.exited().reason, "Completed");
    let bundle = Bundle::new("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    let mut monitor = bundle.run(&spawner);
    until("ready", || bundle.records().contains("ready"));
    monitor.kill(15, false);
    assert_eq!(monitor.exited().exit_code, 7);
    assert_eq!(bundle.records(), "stdout F ready\nstdout F bye\n");
    let bundle = Bundle::new("sleep 100");
    let mut monitor = bundle.run(&spawner);
    monitor.kill(9, true);
    let exited = monitor.exited();
    assert_eq!(
        (exited.exit_code, exited.signal, exited.reason.as_str()),
        (137, 9, "Error")
    );
    monitor.end();
    bundle.check_gone();
}

#[test]
fn a_program_that_does_not_exist_is_a_start_error() {
    let spawner = Spawner::start();
    let bundle = Bundle::with_args(&["/bin/nowhere"]);
    let mut monitor = spawner.monitor();
    // Found out at create or at start, whichever comes first.
    let failure = match bundle.create(&mut monitor) {
        Err(failure) => failure,
        Ok(_) => {
            let failure = monitor.call(Verb::Start(wire::Start {})).unwrap_err();
            let exited = monitor.exited();
            assert_eq!(
                (exited.exit_code, exited.started_at, exited.reason.as_str()),
                (128, 0, "StartError")
            );
            assert!(exited.message.contains("nowhere"), "{}", exited.message);
            assert!(exited.finished_at > 0);
            assert_eq!(bundle.record().message, exited.message);
            failure
        }
    };
    assert_eq!(failure.kind, "not_found", "{failure:?}");
    assert!(failure.chain.join(" ").contains("nowhere"), "{failure:?}");
    drop(monitor);
    until("nothing is left", || {
        cgroup::Host::detect()
            .unwrap()
            .open(bundle.config["linux"]["cgroupsPath"].as_str().unwrap())
            .is_err()
    });
}

#[test]
fn a_daemon_that_dies_is_no_reason_to_die() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("echo one; read line < /tmp/go; echo two; exit 5");
    std::process::Command::new("mkfifo")
        .arg(bundle.path("rootfs/tmp/go"))
        .status()
        .unwrap();
    let mut first = bundle.run(&spawner);
    let pid = first.state().pid;
    // The spawner goes too.
    drop(first);
    drop(spawner);
    let mut second = Connection::open(&bundle.path("state"));
    let mut third = Connection::open(&bundle.path("state"));
    let state = second.state();
    assert_eq!((state.status(), state.pid), (Status::Running, pid));
    std::fs::write(bundle.path("rootfs/tmp/go"), "go\n").unwrap();
    let exited = second.exited();
    assert_eq!(exited.exit_code, 5);
    assert_eq!(third.exited(), exited);
    assert_eq!(bundle.records(), "stdout F one\nstdout F two\n");
    until("the monitor's end", || !bundle.path("state/monitor.sock").exists());
    bundle.check_gone();
}

#[test]
fn an_end_that_nobody_hears_is_on_record() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("sleep 0.2; exit 9");
    drop(bundle.run(&spawner));
    until("the monitor's end", || !bundle.path("state/monitor.sock").exists());
    let record = bundle.record();
    assert_eq!((record.exit_code, record.reason), (9, spec::ExitReason::Error));
    assert!(record.finished_at - record.started_at >= 200_000_000);
    bundle.check_gone();
}

#[test]
fn discard_leaves_nothing() {
    let spawner = Spawner::start();
    for start in [false, true] {
        let bundle = Bundle::new("sleep 100");
        let mut monitor = spawner.monitor();
        bundle.create(&mut monitor).unwrap();
        if start {
            monitor.start();
        }
        let (answer, _) = monitor.call(Verb::Discard(wire::Discard {})).unwrap();
        assert_eq!(answer, reply::Result::Done(wire::Done {}));
        monitor.end();
        bundle.check_gone();
        assert!(!bundle.path("state/exit.json").exists());
    }
    let mut empty = spawner.monitor();
    empty.call(Verb::Discard(wire::Discard {})).unwrap();
    empty.end();
}

#[test]
fn verbs_at_the_wrong_time_are_refused() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("sleep 100");
    let mut monitor = spawner.monitor();
    let early = [
        Verb::Start(wire::Start {}),
        Verb::Kill(wire::Kill { signal: 9, all: true }),
        Verb::Attach(wire::Attach {}),
        Verb::ReopenLog(wire::ReopenLog {}),
        Verb::Resize(wire::Resize { columns: 1, rows: 1 }),
    ];
    for verb in early {
        assert_eq!(monitor.call(verb).unwrap_err().kind, "failed_precondition");
    }
    bundle.create(&mut monitor).unwrap();
    assert_eq!(bundle.create(&mut monitor).unwrap_err().kind, "failed_precondition");
    assert_eq!(
        monitor.call(Verb::Exec(wire::Exec::default())).unwrap_err().kind,
        "failed_precondition"
    );
    monitor.start();
    assert_eq!(
        monitor.call(Verb::Start(wire::Start {})).unwrap_err().kind,
        "failed_precondition"
    );
    assert_eq!(
        monitor
            .call(Verb::Kill(wire::Kill { signal: 99, all: false }))
            .unwrap_err()
            .kind,
        "invalid_argument"
    );
    assert_eq!(
        monitor
            .call(Verb::KillExec(wire::KillExec { exec_id: 77, signal: 9 }))
            .unwrap_err()
            .kind,
        "not_found"
    );
    monitor.kill(9, true);
    monitor.exited();
}

#[test]
fn a_create_that_fails_can_be_read_and_leaves_nothing() {
    let spawner = Spawner::start();
    let mut monitor = spawner.monitor();
    let mut bundle = Bundle::new("true");
    bundle.create.log_path = bundle.path("no/such/dir/0.log").to_str().unwrap().to_owned();
    let failure = bundle.create(&mut monitor).unwrap_err();
    assert_eq!(failure.kind, "not_found", "{failure:?}");
    assert!(failure.chain[0].contains("0.log"), "{failure:?}");
    bundle.create.log_path = bundle.path("logs/0.log").to_str().unwrap().to_owned();
    bundle.create.cgroup_driver = "openrc".to_owned();
    assert_eq!(bundle.create(&mut monitor).unwrap_err().kind, "invalid_argument");
    // The scope is the daemon's to make.
    bundle.create.cgroup_driver = "systemd".to_owned();
    assert_eq!(bundle.create(&mut monitor).unwrap_err().kind, "not_found");
    bundle.create.cgroup_driver = "cgroupfs".to_owned();
    // The same monitor may be asked again.
    bundle.create(&mut monitor).unwrap();
    monitor.start();
    assert_eq!(monitor.exited().exit_code, 0);
}

#[test]
fn a_child_that_outlives_init_holds_nothing_up() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("(sleep 100) & echo done; exit 0");
    // Without a pid namespace the kernel does not kill the child with init: the cgroup must.
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    let before = Instant::now();
    let mut monitor = bundle.run(&spawner);
    assert_eq!(monitor.exited().exit_code, 0);
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    monitor.end();
    assert_eq!(bundle.records(), "stdout F done\n");
    bundle.check_gone();
}

#[test]
fn orphans_are_reaped() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("for i in 1 2 3 4 5; do (true &); done; echo forked; sleep 100");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    let mut monitor = bundle.run(&spawner);
    until("forked", || bundle.records().contains("forked"));
    let children = || {
        let pid = monitor.monitor_pid;
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .unwrap()
            .split_whitespace()
            .count()
    };
    until("one child is left", || children() == 1);
    monitor.kill(9, true);
    monitor.exited();
}

#[test]
fn out_of_memory_is_told_and_is_the_verdict() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::with_args(&["/bin/tail", "/dev/zero"]);
    bundle.config["linux"]["resources"] = serde_json::json!({
        "devices": [{"allow": true, "access": "rwm"}], "memory": {"limit": 16_777_216, "swap": 16_777_216}});
    let mut monitor = bundle.run(&spawner);
    let exited = monitor.exited();
    assert_eq!(
        (exited.exit_code, exited.oom_killed, exited.reason.as_str()),
        (137, true, "OOMKilled")
    );
    assert!(bundle.record().oom_killed);
}

#[test]
fn a_child_killed_for_memory_is_no_verdict() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("tail /dev/zero; echo $?; read line; exit 0");
    bundle.create.stdin = true;
    bundle.config["linux"]["resources"] = serde_json::json!({
        "devices": [{"allow": true, "access": "rwm"}], "memory": {"limit": 16_777_216, "swap": 16_777_216}});
    let mut monitor = bundle.run(&spawner);
    monitor.event(|what| matches!(what, What::OutOfMemory(_)).then_some(()));
    until("the shell has seen it", || bundle.records().contains("137"));
    monitor.kill(15, false);
    // pid 1 ignores what it does not catch.
    monitor.kill(9, false);
    let exited = monitor.exited();
    // The child's death was the OOM killer's; this one is ours.
    assert_eq!((exited.exit_code, exited.reason.as_str()), (137, "Error"));
    let mut clean = Bundle::new("tail /dev/zero; exit 0");
    clean.config["linux"]["resources"] = bundle.config["linux"]["resources"].clone();
    let exited = clean.run(&spawner).exited();
    assert_eq!(
        (exited.exit_code, exited.oom_killed, exited.reason.as_str()),
        (0, false, "Completed")
    );
}

#[test]
fn namespaces_are_pinned_and_a_container_joins_them() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("cat /proc/sys/kernel/hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    let place = |name: &str| bundle.path(name).to_str().unwrap().to_owned();
    let pin = wire::Pin {
        network: place("net"),
        ipc: place("ipc"),
        uts: place("uts"),
        hostname: "pinned".to_owned(),
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())].into(),
        loopback_up: true,
        ..wire::Pin::default()
    };
    let (network, uts) = (pin.network.clone(), pin.uts.clone());
    let unpin = Unpin(vec![pin.network.clone(), pin.ipc.clone(), pin.uts.clone()]);
    let answer = spawner.order(wire::spawn::What::Pin(pin.clone())).reply();
    assert_eq!(answer, reply::Result::Done(wire::Done {}));
    for namespace in bundle.config["linux"]["namespaces"].as_array_mut().unwrap() {
        match namespace["type"].as_str().unwrap() {
            "network" => namespace["path"] = network.clone().into(),
            "uts" => namespace["path"] = uts.clone().into(),
            _ => {}
        }
    }
    bundle.config.as_object_mut().unwrap().remove("hostname");
    bundle.run(&spawner).exited();
    assert_eq!(bundle.records(), "stdout F pinned\nstdout F 80\n");
    let bad = wire::Pin {
        network: "/no/such/dir/net".to_owned(),
        ..pin
    };
    let answer = spawner
        .order(wire::spawn::What::Pin(wire::Pin {
            ipc: String::new(),
            uts: String::new(),
            ..bad
        }))
        .reply();
    assert!(matches!(answer, reply::Result::Failure(_)), "{answer:?}");
    drop(unpin);
}

/// Takes the pins away when the test ends, however it ends.
struct Unpin(Vec<String>);

impl Drop for Unpin {
    fn drop(&mut self) {
        for path in &self.0 {
            rustix::mount::unmount(path.as_str(), rustix::mount::UnmountFlags::DETACH).ok();
        }
    }
}

#[test]
fn rubbish_ends_the_connection_and_nothing_else() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("sleep 100");
    let mut monitor = bundle.run(&spawner);
    for rubbish in [
        &b"\xff\xff\xff\xff"[..],
        b"\x03\x00\x00\x00\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = std::os::unix::net::UnixStream::connect(bundle.path("state/monitor.sock")).unwrap();
        std::io::Write::write_all(&mut stream, rubbish).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Zero bytes, or ECONNRESET where something was left unread; not a timeout.
        let end = std::io::Read::read(&mut stream, &mut [0; 16]);
        assert!(
            end.as_ref().map_or_else(
                |error| error.kind() == std::io::ErrorKind::ConnectionReset,
                |count| *count == 0
            ),
            "{end:?}"
        );
    }
    assert_eq!(monitor.state().status(), Status::Running);
    let fds = || {
        std::fs::read_dir(format!("/proc/{}/fd", monitor.monitor_pid))
            .unwrap()
            .count()
    };
    let before = fds();
    for _ in 0..200 {
        drop(std::os::unix::net::UnixStream::connect(bundle.path("state/monitor.sock")).unwrap());
    }
    until("descriptors are closed", || fds() <= before);
    monitor.kill(9, true);
    assert_eq!(monitor.exited().exit_code, 137);
}

/// Clock ticks that a process has used.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .skip(11)
        .take(2)
        .map(|text| text.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn nothing_to_do_is_nothing_done() {
    let spawner = Spawner::start();
    // Streams closed by the container; input that nobody takes, from a client that has gone; an exec with a closed pipe.
    let mut closed = Bundle::new("exec >&- 2>&- <&-; sleep 100");
    closed.create.stdin = true;
    let mut stuffed = Bundle::new("sleep 100");
    stuffed.create.stdin = true;
    let (mut one, mut two) = (closed.run(&spawner), stuffed.run(&spawner));
    for monitor in [&mut one, &mut two] {
        let relay = crate::attach::Relay::open(monitor);
        for _ in 0..12 {
            relay.try_send(&[1; 16_000]);
        }
        drop(relay);
        let exec = wire::Exec {
            process_json: crate::driver::process(&["/bin/sleep", "100"]).to_string().into_bytes(),
            stdin: true,
            ..wire::Exec::default()
        };
        drop(monitor.call(Verb::Exec(exec)).unwrap());
    }
    std::thread::sleep(Duration::from_millis(1500));
    let before = [ticks(one.monitor_pid), ticks(two.monitor_pid)];
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        [ticks(one.monitor_pid), ticks(two.monitor_pid)],
        before,
        "a monitor is busy with nothing"
    );
    for monitor in [&mut one, &mut two] {
        monitor.kill(9, true);
        monitor.exited();
    }
}

#[test]
fn a_poststop_hook_that_fails_is_told() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("exit 4");
    let hook = |line: &str| serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", line]});
    bundle.config["hooks"] = serde_json::json!({"poststop": [hook("echo broken >&2; exit 8")]});
    let mut monitor = bundle.run(&spawner);
    let exited = monitor.exited();
    assert_eq!((exited.exit_code, exited.warnings.len()), (4, 1));
    let warning = &exited.warnings[0];
    assert!(
        warning.contains("hooks.poststop[0]") && warning.contains("code 8: broken"),
        "{warning}"
    );
    monitor.end();
    bundle.check_gone();
}
