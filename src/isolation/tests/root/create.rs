//! Creation, start, end, and what may go wrong on the way.

use std::fs;
use std::os::fd::AsFd;

use serde_json::json;
use spec::Kind;
use sys::process::{Exit, try_wait_pidfd, wait_pidfd};

use crate::fixture::{Bundle, finish, in_cgroup, kill, say};

#[test]
fn the_exit_code_and_the_streams_come_back() {
    let bundle = Bundle::shell("read line; echo out $line; echo err >&2; exit 7");
    let (created, mut pipes) = bundle.start().unwrap();
    say(&mut pipes.stdin, "hello\n");
    let output = finish(created.pidfd, pipes);
    assert_eq!(
        (output.exit, output.out.as_str(), output.err.as_str()),
        (Exit::Code(7), "out hello\n", "err\n")
    );
}

#[test]
fn nothing_runs_before_start() {
    let bundle = Bundle::shell("touch /tmp/ran");
    let (mut created, pipes) = bundle.create().unwrap();
    assert_eq!(in_cgroup(&bundle), [created.pid], "init waits in its cgroup");
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", created.pid)).unwrap();
    for line in cgroups.lines().filter(|line| !line.contains(":name=")) {
        assert!(line.ends_with(&bundle.cgroup()), "not in all of them: {line}");
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(try_wait_pidfd(created.pidfd.as_fd()).unwrap(), None);
    assert!(!bundle.root().join("tmp/ran").exists());
    created.start().unwrap();
    assert_eq!(finish(created.pidfd, pipes).exit, Exit::Code(0));
    assert!(bundle.root().join("tmp/ran").exists());
}

#[test]
fn a_created_one_that_is_dropped_ends() {
    let bundle = Bundle::shell("touch /tmp/ran");
    let (created, _pipes) = bundle.create().unwrap();
    let pidfd = created.pidfd.try_clone().unwrap();
    drop(created);
    assert_eq!(wait_pidfd(pidfd.as_fd()).unwrap(), Exit::Code(0));
    assert!(!bundle.root().join("tmp/ran").exists());
}

#[test]
fn the_first_process_is_pid_one_with_a_name_of_its_own() {
    // The shell itself counts, so that no other process is there while it does.
    let bundle = Bundle::shell("echo $$; hostname; set -- /proc/[0-9]*; echo $#");
    let out = bundle.out();
    assert_eq!(out.lines().collect::<Vec<_>>(), ["1", "fixture", "1"]);
}

#[test]
fn a_missing_program_is_not_found_at_start() {
    let mut bundle = Bundle::new(&["no-such-program"]);
    let text = r#"exec: "no-such-program": executable file not found in $PATH"#;
    assert_eq!(bundle.refused(), (Kind::NotFound, text.to_owned()));
    bundle.process()["args"] = json!(["/no/such/program"]);
    let text = r#"exec: "/no/such/program": no such file or directory"#;
    assert_eq!(bundle.refused(), (Kind::NotFound, text.to_owned()));
}

#[test]
fn a_program_that_cannot_be_executed_is_denied() {
    let mut bundle = Bundle::new(&["/data/text"]);
    fs::write(bundle.root().join("data/text"), "#!/bin/sh\n").unwrap();
    let text = r#"exec: "/data/text": permission denied"#;
    assert_eq!(bundle.refused(), (Kind::PermissionDenied, text.to_owned()));
    bundle.process()["args"] = json!(["/data"]);
    assert_eq!(bundle.refused().0, Kind::PermissionDenied);
    bundle.program("data/text", "rubbish\n");
    bundle.process()["args"] = json!(["/data/text"]);
    let text = r#"exec: "/data/text": exec format error"#;
    assert_eq!(bundle.refused(), (Kind::InvalidArgument, text.to_owned()));
}

#[test]
fn the_path_of_the_containers_environment_counts() {
    let mut bundle = Bundle::new(&["prog"]);
    bundle.program("data/prog", "#!/bin/sh\necho found $A\n");
    assert_eq!(bundle.refused().0, Kind::NotFound);
    bundle.process()["env"] = json!(["PATH=/bin:/data", "A=b"]);
    assert_eq!(bundle.out(), "found b\n");
}

#[test]
fn the_working_directory_is_made_and_entered() {
    let mut bundle = Bundle::shell("pwd");
    bundle.process()["cwd"] = json!("/new/dir");
    assert_eq!(bundle.out(), "/new/dir\n");
    fs::write(bundle.root().join("data/file"), "").unwrap();
    bundle.process()["cwd"] = json!("/data/file");
    assert!(bundle.refused().1.contains("/data/file"));
}

#[test]
fn only_the_three_streams_are_open() {
    // Descriptors that are not close-on-exec in the caller must not arrive either.
    let (leak, _other) = rustix::pipe::pipe().unwrap();
    let bundle = Bundle::new(&["/bin/ls", "-l", "/proc/self/fd"]);
    let out = bundle.out();
    drop(leak);
    // A heading, three pipes, and the directory that ls reads.
    assert_eq!((out.matches("pipe:").count(), out.lines().count()), (3, 5), "{out}");
}

#[test]
fn signals_are_back_at_their_defaults() {
    let bundle = Bundle::new(&["/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
    assert_eq!(bundle.out(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

#[test]
fn the_cgroup_goes_with_a_failed_create_and_stays_with_a_good_one() {
    let mut bundle = Bundle::shell("true");
    let group = bundle.cgroup();
    bundle.add_mount(json!({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}));
    let (kind, text) = bundle.refused();
    assert_eq!(kind, Kind::FailedPrecondition);
    assert!(
        text.contains("mounts[/x]") && text.contains("/no/such/source"),
        "{text}"
    );
    let host = cgroup::Host::detect().unwrap();
    assert!(host.open(&group).is_err(), "the cgroup was left behind");
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    bundle.out();
    assert!(host.open(&group).is_ok());
}

#[test]
fn a_container_that_lives_is_not_created_again() {
    let bundle = Bundle::new(&["/bin/sleep", "100"]);
    let (created, _pipes) = bundle.start().unwrap();
    let (kind, text) = bundle.refused();
    assert_eq!(
        (kind, text.contains("processes already")),
        (Kind::FailedPrecondition, true),
        "{text}"
    );
    assert_eq!(
        try_wait_pidfd(created.pidfd.as_fd()).unwrap(),
        None,
        "the first one lives on"
    );
    kill(&created);
}

#[test]
fn limits_are_in_the_cgroup_and_unknown_devices_are_closed() {
    // 43:0 (nbd) has no driver here: ENXIO where the cgroup lets us through, EPERM where it does not.
    let script = "cat /sys/fs/cgroup/pids/pids.max; mknod /tmp/disk b 43 0; head -c1 /tmp/disk; head -c1 /dev/zero >/dev/null && echo zero";
    let mut bundle = Bundle::shell(script);
    bundle.spec["linux"]["resources"] = json!({"pids": {"limit": 123}});
    let output = bundle.run().unwrap();
    assert_eq!(output.out, "123\nzero\n", "{output:?}");
    assert_eq!(output.err, "head: /tmp/disk: Operation not permitted\n");

    let mut bundle = Bundle::shell("mknod /tmp/disk b 43 0; head -c1 /tmp/disk");
    bundle.spec["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
    let output = bundle.run().unwrap();
    assert_eq!(output.err, "head: /tmp/disk: No such device or address\n");
}

#[test]
fn a_rootfs_may_come_as_a_detached_mount() {
    let bundle = Bundle::shell("echo detached; grep -c . /proc/self/mountinfo");
    bundle.write();
    let tree = sys::mount::open_tree(rustix::fs::CWD, &bundle.root(), false).unwrap();
    let other = Bundle::shell("echo other");
    fs::rename(bundle.dir.join("rootfs"), bundle.dir.join("moved")).unwrap();
    let (stdio, pipes) = crate::fixture::pipes();
    let mut created = isolation::create(isolation::CreateRequest {
        id: &bundle.id,
        bundle: &bundle.dir,
        rootfs: Some(tree.as_fd()),
        mounts: Vec::new(),
        seed: None,
        driver: cgroup::DriverKind::Cgroupfs,
        stdio,
    })
    .unwrap();
    created.start().unwrap();
    assert!(finish(created.pidfd, pipes).out.starts_with("detached\n"));
    drop(other);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (field, value) in [
        ("vm", json!({"kernel": {"path": "/x"}})),
        ("windows", json!({"layerFolders": ["/x"]})),
    ] {
        let mut bundle = Bundle::shell("true");
        bundle.spec[field] = value;
        let (kind, text) = bundle.refused();
        assert_eq!((kind, text.contains(field)), (Kind::Unimplemented, true), "{text}");
    }
}

#[test]
fn the_reaper_holds_a_pid_namespace_without_an_image() {
    let mut pod = Bundle::new(&[]);
    pod.spec["annotations"] = json!({"io.bulkhead.init": "reaper"});
    pod.spec.as_object_mut().unwrap().remove("root");
    pod.spec["mounts"] = json!([]);
    pod.spec["linux"]["maskedPaths"] = json!([]);
    pod.spec["linux"]["readonlyPaths"] = json!([]);
    let (init, _pipes) = pod.start().unwrap();

    let mut bundle = Bundle::shell(
        "(sleep 0 &) ; sleep 0.1; cat /proc/1/comm; cat /proc/[0-9]*/status | grep -c 'State:.Z'; echo $$",
    );
    bundle.spec["linux"]["namespaces"][0]["path"] = json!(format!("/proc/{}/ns/pid", init.pid));
    let out = bundle.out();
    // The orphan went to the reaper, which waited for it.
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..2], ["bulkhead-init", "0"], "{out}");
    assert_ne!(lines[2], "1");

    sys::process::pidfd_signal(init.pidfd.as_fd(), libc::SIGTERM).unwrap();
    assert_eq!(wait_pidfd(init.pidfd.as_fd()).unwrap(), Exit::Code(0));
}

#[test]
fn one_that_was_killed_before_its_start_says_so() {
    let bundle = Bundle::shell("true");
    let (mut created, _pipes) = bundle.create().unwrap();
    kill(&created);
    let error = created.start().unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{:?}", error.chain());
}

#[test]
fn clocks_have_the_offsets_of_a_new_time_namespace() {
    let mut bundle = Bundle::shell("cat /proc/uptime");
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "time"}));
    bundle.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 100_000_000}});
    let uptime: f64 = bundle.out().split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 100_000_000.0, "{uptime}");
}

#[test]
fn ten_at_once_do_not_disturb_one_another() {
    let threads: Vec<_> = (0..10)
        .map(|n| {
            std::thread::spawn(move || {
                for _ in 0..3 {
                    assert_eq!(Bundle::shell(&format!("echo {n}")).out(), format!("{n}\n"));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
