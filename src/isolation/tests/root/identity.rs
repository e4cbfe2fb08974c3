//! Who the process is: ids, capabilities, limits, seccomp, terminal.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use isolation::Stdio;
use serde_json::json;
use sys::process::{Exit, wait_pidfd};

use crate::fixture::{Bundle, caps};

fn status(bundle: &Bundle, name: &str) -> String {
    let out = bundle.out();
    let line = out
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))
        .unwrap_or_default();
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

fn statuses(bundle: &Bundle) -> Vec<String> {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .iter()
        .map(|name| status(bundle, name))
        .collect()
}

#[test]
fn ids_and_groups_are_what_the_spec_says() {
    let mut bundle = Bundle::shell("cat /proc/self/status; touch /tmp/f; stat -c '%a' /tmp/f");
    bundle.process()["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [1001, 7], "umask": 0o077});
    std::fs::set_permissions(
        bundle.root().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    assert_eq!(status(&bundle, "Uid"), "1000 1000 1000 1000");
    assert_eq!(status(&bundle, "Gid"), "1001 1001 1001 1001");
    assert_eq!(status(&bundle, "Groups"), "7 1001");
    assert!(bundle.out().ends_with("600\n"));
}

#[test]
fn roots_capabilities_are_the_bounding_set_and_nothing_is_inheritable() {
    let bundle = Bundle::shell("cat /proc/self/status");
    // CHOWN, DAC_OVERRIDE, KILL, MKNOD.
    let set = format!("{:016x}", 1 | 1 << 1 | 1 << 5 | 1_u64 << 27);
    let none = "0".repeat(16);
    assert_eq!(statuses(&bundle), [none.clone(), set.clone(), set.clone(), set, none]);
    assert_eq!(status(&bundle, "NoNewPrivs"), "1");
}

#[test]
fn another_user_has_none_unless_they_are_ambient() {
    let mut bundle = Bundle::shell("cat /proc/self/status");
    bundle.process()["user"] = json!({"uid": 1000, "gid": 1000});
    let none = "0".repeat(16);
    assert_eq!(statuses(&bundle)[1], none);
    assert_eq!(statuses(&bundle)[2], none);
    let kill = ["CAP_KILL"];
    bundle.process()["capabilities"] =
        json!({"bounding": kill, "effective": kill, "permitted": kill, "inheritable": kill, "ambient": kill});
    let set = format!("{:016x}", 1 << 5);
    assert_eq!(statuses(&bundle), vec![set; 5]);
}

#[test]
fn no_capabilities_named_is_none_had() {
    let mut bundle = Bundle::shell("cat /proc/self/status");
    bundle.process().as_object_mut().unwrap().remove("capabilities");
    assert!(statuses(&bundle).iter().all(|set| *set == "0".repeat(16)));
}

#[test]
fn what_the_host_withholds_is_clamped_with_a_reason() {
    let have = sys::cap::bounding().unwrap();
    if have.contains(sys::cap::SYS_RESOURCE) {
        // With the capability nothing is clamped; the rule itself is tested in the plan.
        return;
    }
    let mut bundle = Bundle::shell("ulimit -n; cat /proc/self/oom_score_adj");
    bundle.process()["capabilities"] = caps(&["CAP_SYS_RESOURCE", "CAP_KILL"]);
    bundle.process()["oomScoreAdj"] = json!(-998);
    bundle.process()["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1_000_000_000, "hard": 1_000_000_000}]);
    let (mut created, pipes) = bundle.create().unwrap();
    assert_eq!(created.clamped.len(), 3, "{:?}", created.clamped);
    created.start().unwrap();
    let hard = sys::rlimit::get(rustix::process::Resource::Nofile).hard.unwrap();
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(
        crate::fixture::finish(created.pidfd, pipes).out,
        format!("{hard}\n{own}")
    );
}

#[test]
fn limits_and_the_oom_score_hold() {
    let mut bundle = Bundle::shell("ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj");
    bundle.process()["oomScoreAdj"] = json!(321);
    bundle.process()["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}]);
    assert_eq!(bundle.out(), "77\n99\n321\n");
}

fn profile() -> serde_json::Value {
    // Setting up must not depend on what the profile refuses.
    let refused = [
        "setresuid",
        "setresgid",
        "setgroups",
        "capset",
        "prctl",
        "mkdir",
        "mkdirat",
        "sendmsg",
        "fchdir",
    ];
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    })
}

#[test]
fn the_filter_bites_and_never_its_own_loading() {
    for no_new_privs in [true, false] {
        let mut bundle = Bundle::shell("grep Seccomp: /proc/self/status; mkdir /tmp/d || echo refused");
        bundle.process()["noNewPrivileges"] = json!(no_new_privs);
        bundle.process()["user"] = json!({"uid": 1000, "gid": 1000});
        bundle.spec["linux"]["seccomp"] = profile();
        assert_eq!(bundle.out(), "Seccomp:\t2\nrefused\n");
    }
}

#[test]
fn without_no_new_privs_the_filter_leaves_no_capability_behind() {
    let mut bundle = Bundle::shell("cat /proc/self/status");
    bundle.process()["noNewPrivileges"] = json!(false);
    bundle.spec["linux"]["seccomp"] = profile();
    let set = format!("{:016x}", 1 | 1 << 1 | 1 << 5 | 1_u64 << 27);
    assert_eq!(statuses(&bundle)[1..4], [set.clone(), set.clone(), set]);
    bundle.process()["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(statuses(&bundle)[1..3], ["0".repeat(16), "0".repeat(16)]);
}

#[test]
fn a_missing_program_is_reported_through_the_filter() {
    let mut bundle = Bundle::new(&["/no/such/program"]);
    bundle.spec["linux"]["seccomp"] = profile();
    assert_eq!(bundle.refused().0, spec::Kind::NotFound);
}

#[test]
fn a_terminal_is_the_containers_own() {
    let mut bundle =
        Bundle::shell("tty; stty size; [ -c /dev/console ] && stat -c %U /dev/console; read x; echo got $x; exit 3");
    bundle.process()["terminal"] = json!(true);
    bundle.process()["consoleSize"] = json!({"width": 111, "height": 33});
    let mut created = bundle.create_with(Stdio::Terminal).unwrap();
    created.start().unwrap();
    let mut master = std::fs::File::from(created.console.take().unwrap());
    master.write_all(b"hi\n").unwrap();
    assert_eq!(wait_pidfd(created.pidfd.as_fd()).unwrap(), Exit::Code(3));
    let mut text = Vec::new();
    // The last slave is closed: EIO is a terminal's end of file.
    assert_eq!(
        master.read_to_end(&mut text).unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("/dev/pts/0\r\n") && text.contains("33 111\r\n") && text.contains("got hi\r\n"),
        "{text}"
    );
}

#[test]
fn terminal_and_streams_must_agree() {
    let mut bundle = Bundle::shell("true");
    assert_eq!(
        bundle.create_with(Stdio::Terminal).unwrap_err().kind(),
        spec::Kind::InvalidArgument
    );
    bundle.process()["terminal"] = json!(true);
    assert_eq!(bundle.refused().0, spec::Kind::InvalidArgument);
}

#[test]
fn pipes_belong_to_the_user_and_other_files_keep_their_owner() {
    let mut bundle = Bundle::shell("echo again > /dev/stdout; stat -L -c %u /dev/stdin");
    bundle.process()["user"] = json!({"uid": 1000, "gid": 1000});
    let file = bundle.dir.join("stdin");
    std::fs::write(&file, "").unwrap();
    let (stdio, pipes) = crate::fixture::pipes();
    let Stdio::Pipes { stdout, stderr, .. } = stdio else {
        unreachable!()
    };
    let stdin = std::fs::File::open(&file).unwrap().into();
    let mut created = bundle.create_with(Stdio::Pipes { stdin, stdout, stderr }).unwrap();
    created.start().unwrap();
    let output = crate::fixture::finish(created.pidfd, pipes);
    assert_eq!(output.out, "again\n0\n", "{output:?}");
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&file).unwrap()),
        0
    );
}
