//! Orders to the spawner that cannot be carried out.

use std::time::{Duration, Instant};

use proto::monitor::{self as wire, reply};

use crate::driver::{Bundle, DEADLINE, Spawner};

#[test]
fn orders_that_are_none_harm_nobody() {
    let spawner = Spawner::start();
    for rubbish in [&b"\xff\xff\xff"[..], b"", b"x"] {
        spawner.send(rubbish, false);
        spawner.send(rubbish, true);
    }
    let bundle = Bundle::new("echo fine");
    bundle.run(&spawner).exited();
    assert_eq!(bundle.records(), "stdout F fine\n");
}

#[test]
fn what_has_ended_leaves_nothing() {
    let spawner = Spawner::start();
    spawner.order(wire::spawn::What::Pin(wire::Pin::default())).reply();
    let pid = spawner.pid();
    let children = || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let deadline = Instant::now() + DEADLINE;
    while !children().is_empty() {
        assert!(Instant::now() < deadline, "zombies: {}", children());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_fork_that_fails_says_why() {
    let narrow = Narrow::new();
    let spawner = Spawner::start();
    narrow.0.join(spawner.pid()).unwrap();
    for what in [
        wire::spawn::What::Monitor(wire::SpawnMonitor {}),
        wire::spawn::What::Pin(wire::Pin::default()),
        wire::spawn::What::Placeholder(wire::SpawnPlaceholder {}),
    ] {
        match spawner.order(what).reply() {
            reply::Result::Failure(failure) => {
                assert_eq!(failure.kind, spec::Kind::ResourceExhausted.name());
                assert!(failure.chain.join(": ").starts_with("fork a process"), "{failure:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    narrow.limit(-1);
    let bundle = Bundle::new("echo fine");
    bundle.run(&spawner).exited();
    assert_eq!(bundle.records(), "stdout F fine\n");
}

/// A cgroup with room for one process.
struct Narrow(cgroup::Cgroup);

impl Narrow {
    fn new() -> Self {
        let path = format!("/bulkhead-test-{}-narrow", std::process::id());
        let narrow = Self(cgroup::Host::detect().unwrap().create(&path).unwrap());
        narrow.limit(1);
        narrow
    }

    fn limit(&self, pids: i64) {
        let limits = serde_json::json!({"pids": {"limit": pids}});
        self.0.apply(&serde_json::from_value(limits).unwrap()).unwrap();
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        self.0.remove().unwrap();
    }
}
