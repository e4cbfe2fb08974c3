//! The real hierarchies of this host. Needs root; every cgroup has a name of its own and is removed.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "all of this file is a test"
)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cgroup::{Cgroup, Host, Version};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

struct Scratch {
    group: Cgroup,
    children: Vec<Child>,
}

impl Scratch {
    fn new(name: &str) -> Self {
        let path = format!("/bulkhead-test-{}-{name}/inner", std::process::id());
        Self {
            group: Host::detect().unwrap().create(&path).unwrap(),
            children: Vec::new(),
        }
    }

    fn parent(&self) -> Cgroup {
        let parent = self.group.path().trim_end_matches("/inner").to_owned();
        Host::detect().unwrap().open(&parent).unwrap()
    }

    /// A shell that waits for a line before it runs `script`, so that it can be put into the cgroup first.
    fn shell(&mut self, script: &str) -> i32 {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read line; {script}")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        self.group.join(pid).unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        self.children.push(child);
        pid
    }

    fn limits(&self, json: &str) -> Result<(), cgroup::Error> {
        self.group.apply(&serde_json::from_str(json).unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let parent = self.parent();
        self.group.kill().unwrap();
        self.children.iter_mut().for_each(|child| drop(child.wait()));
        parent.remove().unwrap();
        assert!(
            Host::detect().unwrap().open(parent.path()).is_err(),
            "{} was left behind",
            parent.path()
        );
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
fn a_process_joins_every_hierarchy_and_is_killed() {
    let mut scratch = Scratch::new("join");
    let pid = scratch.shell("sleep 100 & sleep 100 & wait");
    until("three processes", || scratch.group.procs().unwrap().len() == 3);
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let wanted = [
        "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb",
    ];
    for line in own.lines() {
        let controllers: Vec<&str> = line.split(':').nth(1).unwrap().split(',').collect();
        if controllers.iter().any(|name| wanted.contains(name)) || controllers == [""] {
            assert!(line.ends_with(scratch.group.path()), "{line}");
        } else {
            assert!(!line.contains("bulkhead-test"), "{line} was to be left alone");
        }
    }
    scratch.group.kill().unwrap();
    scratch.children[0].wait().unwrap();
    until("empty", || scratch.group.procs().unwrap().is_empty());
}

#[test]
fn a_cpuset_is_filled_by_the_kernel_and_by_writing() {
    let cpuset = std::path::Path::new("/sys/fs/cgroup/cpuset");
    if !cpuset.join("cgroup.clone_children").exists() {
        // v2: nothing is to be filled.
        return;
    }
    let scratch = Scratch::new("cpuset");
    let read = |path: &str, file: &str| {
        let path = cpuset.join(path.trim_start_matches('/')).join(file);
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    let (inner, parent) = (scratch.group.path().to_owned(), scratch.parent());
    // The first is made with its parent, so by writing.
    assert_eq!(read(parent.path(), "cgroup.clone_children"), "0");
    let second = Host::detect()
        .unwrap()
        .create(&format!("{}/second", parent.path()))
        .unwrap();
    assert_eq!(read(parent.path(), "cgroup.clone_children"), "1");
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let wanted = read("/", file);
        assert_eq!(
            [read(&inner, file), read(second.path(), file)],
            [wanted.clone(), wanted],
            "{file}"
        );
    }
    second.remove().unwrap();
}

#[test]
fn limits_are_written_raised_lowered_and_refused() {
    let scratch = Scratch::new("limits");
    scratch.limits(r#"{"memory": {"limit": 67108864, "swap": 67108864}, "cpu": {"shares": 512, "quota": 50000, "period": 100000}, "pids": {"limit": 50}}"#).unwrap();
    let limits = || {
        let details = scratch.group.details().unwrap();
        (scratch.group.stats().unwrap().memory_limit, details.pids_limit)
    };
    assert_eq!(limits(), (Some(67_108_864), Some(50)));
    scratch
        .limits(r#"{"memory": {"limit": 134217728, "swap": 134217728}, "cpu": {"quota": 200000, "period": 50000}}"#)
        .unwrap();
    assert_eq!(scratch.group.stats().unwrap().memory_limit, Some(134_217_728));
    scratch
        .limits(r#"{"memory": {"limit": 33554432, "swap": 33554432}, "cpu": {"quota": 10000, "period": 1000000}}"#)
        .unwrap();
    scratch
        .limits(r#"{"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}}"#)
        .unwrap();
    assert_eq!(limits(), (None, None));
    let error = scratch.limits(r#"{"cpu": {"quota": 1, "period": 1}}"#).unwrap_err();
    assert_eq!(error.kind(), spec::Kind::InvalidArgument, "{error}");
    let error = scratch.limits(r#"{"cpu": {"cpus": "4000"}}"#).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
}

#[test]
fn counters_count() {
    let mut scratch = Scratch::new("stats");
    scratch.shell(
        "x=$(head -c 4194304 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100",
    );
    until("cpu time", || {
        scratch.group.stats().unwrap().cpu_usage_ns.unwrap() > 1_000_000
    });
    let stats = scratch.group.stats().unwrap();
    assert!(scratch.group.details().unwrap().pids_current.unwrap() >= 1);
    assert!(stats.memory_usage.unwrap() >= stats.memory_working_set.unwrap());
    until("memory counters", || {
        // The kernel folds its per-CPU counts in with some delay.
        let stats = scratch.group.stats().unwrap();
        stats.memory_rss.unwrap() > 1_000_000 && stats.page_faults.unwrap() > 0
    });
}

#[test]
fn an_oom_kill_is_counted_and_told() {
    let mut scratch = Scratch::new("oom");
    scratch.limits(r#"{"memory": {"limit": 8388608}}"#).unwrap();
    assert_eq!(scratch.group.oom_kills().unwrap(), 0);
    let mut watch = scratch.group.watch_oom().unwrap();
    // A shell variable of 64 MiB.
    scratch.shell("x=$(head -c 67108864 /dev/zero | tr '\\0' x); sleep 100");
    let mut fds = [PollFd::new(&watch, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1, "no notification");
    until("the counter", || scratch.group.oom_kills().unwrap() >= 1);
    watch.drain();
}

#[test]
fn frozen_stands_still_and_thawed_runs() {
    let mut scratch = Scratch::new("freeze");
    let pid = scratch.shell("while :; do :; done");
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .nth(11)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    until("it runs", || ticks() > 2);
    scratch.group.freeze().unwrap();
    let before = ticks();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ticks(), before);
    scratch.group.thaw().unwrap();
    until("it runs again", || ticks() > before + 2);
    scratch.group.freeze().unwrap();
    scratch.group.kill().unwrap();
    scratch.children[0].wait().unwrap();
}

#[test]
fn devices_are_denied_but_for_the_list() {
    let mut scratch = Scratch::new("devices");
    scratch.limits(r#"{"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}]}"#).unwrap();
    let out = std::env::temp_dir().join(format!("bulkhead-dev-{}", std::process::id()));
    scratch.shell(&format!(
        "(: < /dev/null && echo null; : < /dev/zero && echo zero; mknod {0}.node c 1 5 && echo mknod) > {0} 2>/dev/null",
        out.display()
    ));
    scratch.children[0].wait().unwrap();
    let said = std::fs::read_to_string(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    assert_eq!(said, "null\n");
}

#[test]
fn a_fork_bomb_is_killed() {
    let mut scratch = Scratch::new("bomb");
    scratch.limits(r#"{"pids": {"limit": 60}}"#).unwrap();
    scratch.shell("b() { b | b & }; while :; do b 2>/dev/null; done");
    until("it spreads", || {
        scratch.group.details().unwrap().pids_current.unwrap() > 30
    });
    let mut rounds = 0;
    until("it dies", || {
        rounds += 1;
        scratch.group.kill().unwrap();
        scratch.group.procs().unwrap().is_empty()
    });
    assert!(rounds < 100);
}

#[test]
fn remove_takes_children_and_what_is_gone_is_fine() {
    let scratch = Scratch::new("remove");
    let host = Host::detect().unwrap();
    host.create(&format!("{}/a/b", scratch.group.path())).unwrap();
    scratch.group.remove().unwrap();
    scratch.group.remove().unwrap();
    assert!(scratch.group.procs().unwrap().is_empty());
    scratch.group.kill().unwrap();
    assert_eq!(scratch.group.stats().unwrap_err().kind(), spec::Kind::NotFound);
    assert_eq!(
        host.open(scratch.group.path()).unwrap_err().kind(),
        spec::Kind::NotFound
    );
    // The parent was pruned from a v2 tree beside v1; Drop expects the rest.
    host.create(scratch.group.path()).unwrap();
}

#[test]
fn a_live_process_makes_removal_busy() {
    let mut scratch = Scratch::new("busy");
    scratch.shell("sleep 100");
    assert_eq!(
        scratch.group.remove().unwrap_err().kind(),
        spec::Kind::FailedPrecondition
    );
}

#[test]
fn version_and_clone_into_agree() {
    let scratch = Scratch::new("version");
    assert_eq!(
        scratch.group.clone_into().is_some(),
        scratch.group.version() == Version::V2
    );
}

#[test]
#[ignore = "a measurement"]
fn measure_a_life() {
    let host = Host::detect().unwrap();
    let limits = serde_json::from_str(r#"{"memory": {"limit": 67108864}, "cpu": {"shares": 512, "quota": 50000, "period": 100000}, "pids": {"limit": 50}}"#).unwrap();
    let mut times: [Vec<Duration>; 6] = Default::default();
    let parent = format!("/bulkhead-test-{}-measure", std::process::id());
    for round in 0..100 {
        let mut child = Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let mut at = Instant::now();
        let mut lap = |times: &mut Vec<Duration>| {
            times.push(at.elapsed());
            at = Instant::now();
        };
        let group = host.create(&format!("{parent}/{round}")).unwrap();
        lap(&mut times[0]);
        group.apply(&limits).unwrap();
        lap(&mut times[1]);
        group.join(i32::try_from(child.id()).unwrap()).unwrap();
        lap(&mut times[2]);
        group.stats().unwrap();
        lap(&mut times[3]);
        group.kill().unwrap();
        lap(&mut times[4]);
        child.wait().unwrap();
        lap(&mut Vec::new());
        group.remove().unwrap();
        lap(&mut times[5]);
    }
    host.open(&parent).unwrap().remove().unwrap();
    for (name, times) in ["create", "apply", "join", "stats", "kill", "remove"]
        .iter()
        .zip(&mut times)
    {
        times.sort();
        println!("{name}: p50 {:?} p90 {:?}", times[50], times[90]);
    }
}

fn file_of(group: &Cgroup, name: &str) -> String {
    let found = group.dirs().map(|(_, dir)| dir.join(name)).find(|path| path.exists());
    std::fs::read_to_string(found.unwrap()).unwrap().trim().to_owned()
}

fn update(group: &Cgroup, json: &str) -> Result<(), cgroup::Error> {
    group.update(&serde_json::from_str(json).unwrap()).map(drop)
}

fn is_v1() -> bool {
    Host::detect().unwrap().version() == Version::V1
}

#[test]
fn a_resize_goes_up_and_down_again() {
    let scratch = Scratch::new("resize");
    let memory = if is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
    for megabytes in [64_u64, 256, 32, 128] {
        let bytes = megabytes << 20;
        let limits = format!(
            r#"{{"memory": {{"limit": {bytes}, "swap": {bytes}}}, "cpu": {{"quota": {bytes}0, "period": 100000}}}}"#
        );
        let limits = limits.replace(&format!("{bytes}0,"), &format!("{},", megabytes * 1000));
        update(&scratch.group, &limits).unwrap();
        assert_eq!(file_of(&scratch.group, memory), bytes.to_string());
    }
    let details = scratch.group.details().unwrap();
    assert_eq!((details.cpu_quota, details.cpu_period), (Some(128_000), Some(100_000)));
    assert_eq!(details.memory_limit, Some(128 << 20));
}

#[test]
fn a_resize_that_somebody_else_refuses_is_taken_back() {
    let scratch = Scratch::new("taken-back");
    let limits = |megabytes: u64, quota: u64| {
        let bytes = megabytes << 20;
        let text = format!(
            r#"{{"memory": {{"limit": {bytes}, "swap": {bytes}}}, "cpu": {{"quota": {quota}, "period": 100000}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    };
    drop(scratch.group.update(&limits(64, 50_000)).unwrap());
    let earlier = scratch.group.update(&limits(128, 75_000)).unwrap();
    let error = scratch.group.take_back(cgroup::Error::NotMounted, earlier);
    assert!(matches!(error, cgroup::Error::NotMounted), "{error}");
    let details = scratch.group.details().unwrap();
    assert_eq!(details.memory_limit, Some(64 << 20));
    assert_eq!((details.cpu_quota, details.cpu_period), (Some(50_000), Some(100_000)));
}

#[test]
fn a_resize_that_is_refused_half_way_changes_nothing() {
    let scratch = Scratch::new("rollback");
    let memory = if is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
    let before = r#"{"memory": {"limit": 67108864, "swap": 67108864}, "cpu": {"shares": 512, "quota": 50000, "period": 100000}}"#;
    update(&scratch.group, before).unwrap();
    // Memory and shares go in; a period of a microsecond is below the smallest one.
    let bad =
        r#"{"memory": {"limit": 134217728, "swap": 134217728}, "cpu": {"shares": 1024, "quota": 50000, "period": 1}}"#;
    let error = update(&scratch.group, bad).unwrap_err();
    assert_eq!(error.kind(), spec::Kind::InvalidArgument, "{error}");
    assert_eq!(file_of(&scratch.group, memory), "67108864");
    let details = scratch.group.details().unwrap();
    assert_eq!((details.cpu_quota, details.cpu_period), (Some(50_000), Some(100_000)));
    assert_eq!(
        file_of(&scratch.group, if is_v1() { "cpu.shares" } else { "cpu.weight" }),
        if is_v1() { "512" } else { "59" }
    );
}

#[test]
fn a_memory_limit_below_what_is_in_use_is_refused_and_kills_nobody() {
    let mut scratch = Scratch::new("below");
    update(&scratch.group, r#"{"memory": {"limit": 268435456, "swap": 268435456}}"#).unwrap();
    // 40 MB of a shell variable: no page cache that could be given back.
    scratch.shell("a=$(head -c 40000000 /dev/zero | tr '\\0' x); sleep 100");
    until("40 MB are in use", || {
        scratch.group.stats().unwrap().memory_rss.unwrap() > 38_000_000
    });
    until("the pipe is gone", || scratch.group.procs().unwrap().len() == 2);
    let error = update(&scratch.group, r#"{"memory": {"limit": 8388608, "swap": 8388608}}"#).unwrap_err();
    assert!(error.to_string().contains("bytes in use"), "{error}");
    assert_eq!(error.kind(), spec::Kind::InvalidArgument);
    assert_eq!(scratch.group.stats().unwrap().memory_limit, Some(268_435_456));
    assert_eq!(scratch.group.oom_kills().unwrap(), 0);
    assert_eq!(scratch.group.procs().unwrap().len(), 2);
}

#[test]
fn pressure_is_told_where_the_kernel_keeps_it() {
    let mut scratch = Scratch::new("pressure");
    scratch.shell("while :; do :; done & while :; do :; done & while :; do :; done");
    // A hybrid host shows the files in its v2 tree, which every host of ours has.
    let kept = std::path::Path::new("/proc/pressure/cpu").exists();
    assert_eq!(scratch.group.pressures().unwrap().cpu.is_some(), kept);
    until("somebody has waited", || {
        scratch
            .group
            .pressures()
            .unwrap()
            .cpu
            .is_none_or(|cpu| cpu.some.total_us > 0)
    });
}

#[test]
fn a_cgroup_that_is_kept_open_tells_the_same() {
    let mut scratch = Scratch::new("kept");
    scratch
        .limits(r#"{"memory": {"limit": 67108864, "swap": 67108864}}"#)
        .unwrap();
    scratch.shell("sleep 100 & sleep 100");
    until("three processes", || scratch.group.procs().unwrap().len() == 3);
    let kept = [false, true].map(|files| {
        let mut kept = Host::detect().unwrap().open(scratch.group.path()).unwrap();
        kept.keep(files).unwrap();
        assert!(kept.directories() > 0);
        for _ in 0..3 {
            let by_path = scratch.group.stats().unwrap();
            let by_handle = kept.stats().unwrap();
            assert_eq!(by_handle.memory_limit, Some(67_108_864));
            assert!(by_handle.cpu_usage_ns >= by_path.cpu_usage_ns && by_handle.memory_usage.is_some());
            assert_eq!(
                kept.pressures().unwrap().cpu.is_some(),
                scratch.group.pressures().unwrap().cpu.is_some()
            );
            assert_eq!(kept.count(&[]).unwrap(), 3);
        }
        kept
    });
    scratch
        .limits(r#"{"memory": {"limit": 134217728, "swap": 134217728}}"#)
        .unwrap();
    for kept in &kept {
        assert_eq!(kept.stats().unwrap().memory_limit, Some(134_217_728));
    }
    scratch.group.kill().unwrap();
    scratch.children.iter_mut().for_each(|child| drop(child.wait()));
    scratch.group.remove().unwrap();
    // Another one of the same name is not taken for it.
    Host::detect().unwrap().create(scratch.group.path()).unwrap();
    for kept in &kept {
        assert_eq!(kept.stats().unwrap_err().kind(), spec::Kind::NotFound);
    }
}

#[test]
fn processes_are_counted_whether_the_cgroups_below_are_known_or_not() {
    let mut scratch = Scratch::new("count");
    scratch.shell("sleep 100 & sleep 100");
    until("three processes", || scratch.group.procs().unwrap().len() == 3);
    let (parent, host) = (scratch.parent(), Host::detect().unwrap());
    let mut kept = host.open(scratch.group.path()).unwrap();
    kept.keep(true).unwrap();
    for known in [&[&kept] as &[&Cgroup], &[&scratch.group], &[], &[&parent]] {
        assert_eq!(parent.count(known).unwrap(), 3, "{known:?}");
    }
    assert_eq!(kept.count(&[]).unwrap(), 3);
    // Nobody told of this one, which has processes too.
    let deeper = host.create(&format!("{}/deeper", scratch.group.path())).unwrap();
    if is_v1() {
        deeper.join(scratch.group.procs().unwrap()[0]).unwrap();
    }
    assert_eq!(parent.count(&[&kept]).unwrap(), 3);
    let beside = host.create(&format!("{}/beside", parent.path())).unwrap();
    let mut child = Command::new("/bin/sleep").arg("100").spawn().unwrap();
    beside.join(i32::try_from(child.id()).unwrap()).unwrap();
    let count = parent.count(&[&kept]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(count, 4);
}
