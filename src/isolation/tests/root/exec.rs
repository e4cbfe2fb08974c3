//! Second processes in a running container.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use isolation::{Created, Stdio};
use serde_json::json;
use spec::Kind;
use sys::process::{Exit, wait_pidfd};

use crate::fixture::{Bundle, Pipes, caps, in_cgroup, kill, process};

fn sleeper() -> (Bundle, Created, Pipes) {
    let bundle = Bundle::new(&["/bin/sleep", "1000"]);
    let (created, pipes) = bundle.start().unwrap_or_else(|error| panic!("{:?}", error.chain()));
    (bundle, created, pipes)
}

#[test]
fn it_runs_inside_with_its_own_streams_and_code() {
    let (bundle, init, _pipes) = sleeper();
    let output = bundle
        .exec_out(&init, &process("hostname; cat /proc/1/comm; echo err >&2; exit 9"))
        .unwrap();
    assert_eq!(output.exit, Exit::Code(9), "{output:?}");
    assert_eq!(output.out, "fixture\nsleep\n", "{output:?}");
    assert_eq!(output.err, "err\n");
    kill(&init);
}

#[test]
fn it_has_the_cgroup_the_user_the_directory_and_the_environment() {
    let (bundle, init, _pipes) = sleeper();
    let mut spec = process("pwd; id -u; id -g; echo $X; cat /proc/self/status; cat /proc/self/cgroup");
    spec["cwd"] = json!("/data");
    spec["user"] = json!({"uid": 12, "gid": 34, "additionalGids": [56]});
    spec["env"] = json!(["PATH=/bin", "X=y"]);
    let output = bundle.exec_out(&init, &spec).unwrap();
    assert!(output.out.starts_with("/data\n12\n34\ny\n"), "{output:?}");
    for line in [
        "Groups:\t56 ",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(output.out.contains(line), "{line}: {output:?}");
    }
    assert!(output.out.contains("pids:/\n"), "{output:?}");
    kill(&init);
}

#[test]
fn it_is_in_the_cgroup_and_the_callers_child() {
    let (bundle, init, _pipes) = sleeper();
    let (execed, _streams) = bundle.exec(&init, &process("sleep 1000")).unwrap();
    assert!(in_cgroup(&bundle).contains(&execed.pid));
    let status = std::fs::read_to_string(format!("/proc/{}/status", execed.pid)).unwrap();
    assert!(status.contains(&format!("PPid:\t{}\n", std::process::id())), "{status}");
    // The end of the pid namespace is its end; and init's end waits until we have reaped it.
    sys::process::pidfd_signal(init.pidfd.as_fd(), libc::SIGKILL).unwrap();
    assert_eq!(wait_pidfd(execed.pidfd.as_fd()).unwrap(), Exit::Signal(libc::SIGKILL));
    wait_pidfd(init.pidfd.as_fd()).unwrap();
}

#[test]
fn a_missing_program_or_directory_is_said_so() {
    let (bundle, init, _pipes) = sleeper();
    let mut spec = process("");
    spec["args"] = json!(["no-such-program"]);
    let error = bundle.exec_out(&init, &spec).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(
        error.to_string(),
        r#"exec: "no-such-program": executable file not found in $PATH"#
    );
    spec["args"] = json!(["/data"]);
    assert_eq!(
        bundle.exec_out(&init, &spec).unwrap_err().kind(),
        Kind::PermissionDenied
    );
    spec["args"] = json!(["/bin/true"]);
    spec["cwd"] = json!("/no/such/dir");
    assert_eq!(bundle.exec_out(&init, &spec).unwrap_err().kind(), Kind::NotFound);
    spec["cwd"] = json!("/proc/self/fd/7");
    assert!(bundle.exec_out(&init, &spec).is_err());
    let error = bundle.exec_out(&init, &json!({"rubbish": 1})).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    kill(&init);
}

#[test]
fn only_the_three_streams_are_open_and_capabilities_are_as_asked() {
    let (bundle, init, _pipes) = sleeper();
    let mut spec = process("ls /proc/$$/fd; grep CapEff /proc/self/status");
    spec["capabilities"] = caps(&["CAP_KILL"]);
    let output = bundle.exec_out(&init, &spec).unwrap();
    assert_eq!(output.out, "0\n1\n2\nCapEff:\t0000000000000020\n");
    kill(&init);
}

#[test]
fn the_containers_filter_holds_for_it_too() {
    let mut bundle = Bundle::new(&["/bin/sleep", "1000"]);
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    });
    let (init, _pipes) = bundle.start().unwrap();
    let output = bundle
        .exec_out(
            &init,
            &process("mkdir /tmp/x || echo refused; grep Seccomp: /proc/self/status"),
        )
        .unwrap();
    assert_eq!(output.out, "refused\nSeccomp:\t2\n");
    kill(&init);
}

#[test]
fn a_terminal_is_of_the_containers_devpts() {
    let (bundle, init, _pipes) = sleeper();
    let mut spec = process("tty; read x; echo got $x");
    spec["terminal"] = json!(true);
    let mut execed = bundle.exec_with(&init, &spec, Stdio::Terminal).unwrap();
    let mut master = std::fs::File::from(execed.console.take().unwrap());
    master.write_all(b"hi\n").unwrap();
    assert_eq!(wait_pidfd(execed.pidfd.as_fd()).unwrap(), Exit::Code(0));
    let mut text = Vec::new();
    assert_eq!(
        master.read_to_end(&mut text).unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("/dev/pts/0\r\n") && text.contains("got hi\r\n"), "{text}");
    kill(&init);
}

#[test]
fn a_container_that_has_ended_takes_none() {
    let (bundle, init, _pipes) = sleeper();
    kill(&init);
    let error = bundle.exec_out(&init, &process("true")).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{:?}", error.chain());
}

#[test]
fn one_that_is_dropped_before_it_is_done_is_gone() {
    let (bundle, init, _pipes) = sleeper();
    // Once at once and once when the process is there, busy with the search for its program.
    for wait in [false, true] {
        let (stdio, _streams) = crate::fixture::pipes();
        let mut spec = process("");
        spec["args"] = json!(["no-such-program"]);
        spec["env"] = json!([format!("PATH={}", "/a:".repeat(200_000))]);
        let json = serde_json::to_vec(&spec).unwrap();
        let pending = isolation::exec(isolation::ExecRequest {
            init: init.pidfd.as_fd(),
            init_pid: init.pid,
            bundle: &bundle.dir,
            process_json: &json,
            stdio,
            cgroup_path: &init.cgroup_path,
            driver: cgroup::DriverKind::Cgroupfs,
            keeps_orphans: false,
        })
        .unwrap();
        let mut there = Vec::new();
        while wait && there.len() < 2 {
            there = in_cgroup(&bundle);
        }
        drop(pending);
        assert_eq!(in_cgroup(&bundle), [init.pid]);
        for pid in there.iter().filter(|pid| **pid != init.pid) {
            assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "not reaped");
        }
    }
    kill(&init);
}

#[test]
fn nothing_in_the_container_can_look_into_it_before_execve() {
    // CVE-2016-9962: a process of the container opens whatever new pid it sees.
    let mut bundle = Bundle::shell(
        "while true; do for p in /proc/[0-9]*; do \
           [ $p = /proc/1 ] || readlink $p/exe || readlink $p/cwd || readlink $p/root; done 2>/dev/null; done",
    );
    bundle.process()["capabilities"] = caps(&["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]);
    let (init, mut pipes) = bundle.start().unwrap();
    // A long search for the program keeps the process in sight just before execve, with all its privileges dropped.
    let mut spec = process("");
    spec["args"] = json!(["no-such-program"]);
    spec["env"] = json!([format!("PATH={}", "/a:".repeat(20_000))]);
    for _ in 0..3 {
        assert_eq!(bundle.exec_out(&init, &spec).unwrap_err().kind(), Kind::NotFound);
    }
    kill(&init);
    let mut seen = String::new();
    pipes.stdout.read_to_string(&mut seen).unwrap();
    let own = std::env::current_exe().unwrap();
    assert!(
        !seen.contains(own.to_str().unwrap()) && !seen.contains("/rootfs"),
        "{seen}"
    );
}
