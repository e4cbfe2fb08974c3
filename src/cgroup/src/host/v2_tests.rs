//! The v2 half of the code, live: on a hybrid host the v2 tree has no controllers, but processes, `cgroup.kill`,
//! `cgroup.freeze`, device programs and CPU time are all there.

use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

fn v2_only() -> Option<Host> {
    let host = Host::detect().unwrap();
    let only = host
        .hierarchies
        .into_iter()
        .filter(|one| one.version == Version::V2)
        .collect();
    Host::from_hierarchies(only).ok()
}

struct Inside {
    group: Cgroup,
    child: Child,
}

impl Inside {
    fn run(host: &Host, name: &str, limits: &str, script: &str) -> Self {
        let group = host
            .create(&format!("/bulkhead-v2-{}-{name}", std::process::id()))
            .unwrap();
        group.apply(&serde_json::from_str(limits).unwrap()).unwrap();
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read line; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        group.join(i32::try_from(child.id()).unwrap()).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        Self { group, child }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.group.kill().unwrap();
        self.child.wait().unwrap();
        self.group.remove().unwrap();
    }
}

fn until(what: &str, mut test: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !test() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn kill_reaches_all_and_cpu_time_is_counted() {
    let Some(host) = v2_only() else { return };
    let mut inside = Inside::run(&host, "kill", "{}", "sleep 100 & sleep 100 & while :; do :; done");
    assert!(inside.group.clone_into().is_some());
    until("three", || inside.group.procs().unwrap().len() == 3);
    until("cpu time", || {
        inside.group.stats().unwrap().cpu_usage_ns.unwrap() > 1_000_000
    });
    inside.group.kill().unwrap();
    inside.child.wait().unwrap();
    until("empty", || inside.group.procs().unwrap().is_empty());
}

#[test]
fn freeze_waits_until_all_stand_still() {
    let Some(host) = v2_only() else { return };
    let inside = Inside::run(&host, "freeze", "{}", "while :; do :; done");
    inside.group.freeze().unwrap();
    let before = inside.group.stats().unwrap().cpu_usage_ns;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(inside.group.stats().unwrap().cpu_usage_ns, before);
    inside.group.thaw().unwrap();
    until("it runs", || inside.group.stats().unwrap().cpu_usage_ns > before);
}

#[test]
fn the_device_program_denies_all_but_the_list_and_is_replaced() {
    let Some(host) = v2_only() else { return };
    let null_only = r#"{"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}]}"#;
    let script = ": < /dev/null && echo null; (: < /dev/zero) 2>/dev/null && echo zero; true";
    let said = |name: &str, limits: &[&str]| {
        let mut inside = Inside::run(&host, name, limits[0], &format!("read line; {script}"));
        inside
            .group
            .apply(&serde_json::from_str(limits[limits.len() - 1]).unwrap())
            .unwrap();
        drop(inside.child.stdin.take());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut inside.child.stdout.take().unwrap(), &mut text).unwrap();
        text
    };
    assert_eq!(said("devices", &[null_only]), "null\n");
    let all = r#"{"devices": [{"allow": true, "access": "rwm"}]}"#;
    assert_eq!(said("replaced", &[all, null_only]), "null\n");
    assert_eq!(said("opened", &[null_only, all]), "null\nzero\n");
}

#[test]
fn who_is_given_a_cgroup_owns_its_doors_and_none_of_its_limits() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(host) = v2_only() else { return };
    let inside = Inside::run(&host, "delegate", "{}", "sleep 100");
    inside.group.delegate(4321).unwrap();
    let dir = &inside.group.dirs[0].path;
    let owner = |name: &str| std::fs::metadata(dir.join(name)).unwrap().uid();
    assert_eq!(std::fs::metadata(dir).unwrap().uid(), 4321);
    for name in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        assert_eq!(owner(name), 4321, "{name}");
    }
    for name in ["cgroup.freeze", "cgroup.kill", "cgroup.max.descendants"] {
        assert_eq!(owner(name), 0, "{name}");
    }
    // v1 hierarchies are nobody's but the host's.
    let Ok(all) = Host::detect() else { return };
    if all.version() == Version::V1 {
        let group = all
            .create(&format!("/bulkhead-v1-{}-delegate", std::process::id()))
            .unwrap();
        group.delegate(4321).unwrap();
        let owners: Vec<u32> = group
            .dirs
            .iter()
            .map(|dir| std::fs::metadata(&dir.path).unwrap().uid())
            .collect();
        group.remove().unwrap();
        assert!(owners.iter().all(|uid| *uid == 0), "{owners:?}");
    }
}

#[test]
fn a_cgroup_that_is_divided_is_entered_beside_a_process_in_it_and_nowhere_else() {
    let Some(host) = v2_only() else { return };
    let inside = Inside::run(&host, "divided", "{}", "sleep 100");
    let dir = inside.group.dirs[0].path.clone();
    let pid = i32::try_from(inside.child.id()).unwrap();
    std::fs::create_dir(dir.join("inner")).unwrap();
    std::fs::write(dir.join("inner/cgroup.procs"), pid.to_string()).unwrap();
    let entry = inside.group.entry_beside(pid).unwrap();
    let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
    let inner = std::fs::File::open(dir.join("inner")).unwrap();
    assert_eq!(inode(entry.clone_into().unwrap()), inode(inner.as_fd()));
    // This process is somewhere else.
    let own = i32::try_from(std::process::id()).unwrap();
    assert_eq!(
        inside.group.entry_beside(own).unwrap_err().kind(),
        spec::Kind::InvalidArgument
    );
}
