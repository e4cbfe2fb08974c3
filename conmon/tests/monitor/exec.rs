use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use proto::monitor::{self as wire, reply, request::Verb};

use crate::driver::{Bundle, Connection, Spawner, process, until};

fn exec(args: &[&str]) -> wire::Exec {
    wire::Exec {
        process_json: process(args).to_string().into_bytes(),
        ..wire::Exec::default()
    }
}

fn start(connection: &mut Connection, exec: wire::Exec) -> (wire::ExecStarted, Vec<File>) {
    let (answer, fds) = connection.call(Verb::Exec(exec)).unwrap();
    match answer {
        reply::Result::ExecStarted(started) => (started, fds.into_iter().map(|fd: OwnedFd| File::from(fd)).collect()),
        other => panic!("{other:?}"),
    }
}

fn read(file: &mut File) -> String {
    let mut text = String::new();
    // A terminal ends with EIO.
    file.read_to_string(&mut text).ok();
    text
}

#[test]
fn streams_and_codes() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("sleep 100");
    let mut monitor = bundle.run(&spawner);
    let (started, mut files) = start(
        &mut monitor,
        exec(&["/bin/sh", "-c", "echo out; echo err >&2; exit 42"]),
    );
    assert_eq!(files.len(), 2);
    assert_eq!(
        (read(&mut files[0]).as_str(), read(&mut files[1]).as_str()),
        ("out\n", "err\n")
    );
    let exited = monitor.exec_exited(started.exec_id);
    assert_eq!((exited.exit_code, exited.timed_out), (42, false));
    let (started, mut files) = start(
        &mut monitor,
        wire::Exec {
            stdin: true,
            ..exec(&["/bin/cat"])
        },
    );
    files[0].write_all(b"through").unwrap();
    drop(files.remove(0));
    assert_eq!(read(&mut files[0]), "through");
    assert_eq!(monitor.exec_exited(started.exec_id).exit_code, 0);
    // It sees the container, not the host.
    let (_, mut files) = start(
        &mut monitor,
        exec(&["/bin/sh", "-c", "cat /proc/1/comm; cat /proc/sys/kernel/hostname"]),
    );
    assert_eq!(read(&mut files[0]), "sleep\nmonitored\n");
    monitor.kill(9, true);
    monitor.exited();
    // Nothing of it is in the container's log.
    assert_eq!(bundle.records(), "");
}

#[test]
fn a_terminal_with_a_size() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("sleep 100");
    let mut monitor = bundle.run(&spawner);
    let mut process = process(&["/bin/sh", "-c", "stty size; exit 3"]);
    process["terminal"] = true.into();
    process["consoleSize"] = serde_json::json!({"height": 40, "width": 120});
    let request = wire::Exec {
        process_json: process.to_string().into_bytes(),
        terminal: true,
        stdin: true,
        columns: 120,
        rows: 40,
        ..wire::Exec::default()
    };
    let (started, mut files) = start(&mut monitor, request);
    assert_eq!(files.len(), 1);
    assert_eq!(read(&mut files[0]), "40 120\r\n");
    assert_eq!(monitor.exec_exited(started.exec_id).exit_code, 3);
    monitor.kill(9, true);
}

#[test]
fn what_cannot_be_executed_is_an_error_and_harms_nothing() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("sleep 100");
    let mut monitor = bundle.run(&spawner);
    for _ in 0..20 {
        assert_eq!(
            monitor.call(Verb::Exec(exec(&["/bin/nowhere"]))).unwrap_err().kind,
            "not_found"
        );
    }
    let garbage = wire::Exec {
        process_json: b"{".to_vec(),
        ..wire::Exec::default()
    };
    assert_eq!(monitor.call(Verb::Exec(garbage)).unwrap_err().kind, "invalid_argument");
    let (started, _files) = start(&mut monitor, exec(&["/bin/true"]));
    assert_eq!(monitor.exec_exited(started.exec_id).exit_code, 0);
    let pid = monitor.monitor_pid;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "zombies: {children}");
    monitor.kill(9, true);
}

fn sleepers(monitor: &mut Connection) -> usize {
    let (_, mut files) = start(
        monitor,
        exec(&["/bin/sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"]),
    );
    read(&mut files[0]).lines().filter(|line| *line == "77777").count()
}

#[test]
fn a_timeout_kills_the_family_and_nobody_else() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("sleep 100");
    let mut monitor = bundle.run(&spawner);
    let scripts = [
        "sleep 77777",
        "sleep 77777 & sleep 77777 & wait",
        "setsid sleep 77777 & wait",
        "trap '' TERM; sleep 77777; sleep 77777",
        "(setsid sleep 77777 &); (setsid sh -c 'setsid sleep 77777 & sleep 0.1' &); sleep 77777",
        "(setsid sleep 77777 >/dev/null 2>&1 &); exec sleep 77777",
    ];
    for script in scripts {
        let before = Instant::now();
        let (started, mut files) = start(
            &mut monitor,
            wire::Exec {
                timeout_ms: 300,
                ..exec(&["/bin/sh", "-c", script])
            },
        );
        let exited = monitor.exec_exited(started.exec_id);
        assert!(exited.timed_out, "{script}");
        assert!(
            (Duration::from_millis(290)..Duration::from_secs(3)).contains(&before.elapsed()),
            "{:?}",
            before.elapsed()
        );
        // Whoever held the pipe is gone too.
        assert_eq!(read(&mut files[0]), "");
        until("nobody is left", || sleepers(&mut monitor) == 0);
    }
    assert_eq!(monitor.state().status(), wire::Status::Running);
    monitor.kill(9, true);
}

#[test]
fn an_exec_can_be_signalled_and_dies_with_the_container() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("sleep 100");
    let mut monitor = bundle.run(&spawner);
    let (first, _files) = start(&mut monitor, exec(&["/bin/sh", "-c", "sleep 77777"]));
    monitor
        .call(Verb::KillExec(wire::KillExec {
            exec_id: first.exec_id,
            signal: 9,
        }))
        .unwrap();
    assert_eq!(monitor.exec_exited(first.exec_id).exit_code, 137);
    let (second, _more) = start(&mut monitor, exec(&["/bin/sleep", "77777"]));
    monitor.kill(9, false);
    assert_eq!(monitor.exec_exited(second.exec_id).exit_code, 137);
    assert_eq!(monitor.exited().exit_code, 137);
    monitor.end();
    bundle.check_gone();
}

#[test]
fn many_at_once() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("sleep 100");
    let mut monitor = bundle.run(&spawner);
    let running: Vec<_> = (0..20)
        .map(|number| {
            start(
                &mut monitor,
                exec(&["/bin/sh", "-c", &format!("sleep 0.1; echo {number}; exit {number}")]),
            )
        })
        .collect();
    for (number, (started, mut files)) in running.into_iter().enumerate() {
        assert_eq!(read(&mut files[0]), format!("{number}\n"));
        assert_eq!(
            usize::try_from(monitor.exec_exited(started.exec_id).exit_code).unwrap(),
            number
        );
    }
    let fds = || {
        std::fs::read_dir(format!("/proc/{}/fd", monitor.monitor_pid))
            .unwrap()
            .count()
    };
    until("descriptors are closed", || fds() < 20);
    monitor.kill(9, true);
    monitor.exited();
}
