//! Rules of the plan, without a kernel.

use std::collections::HashMap;

use serde_json::{Value, json};
use spec::Kind;
use sys::cap::SYS_RESOURCE;

use super::*;

fn no_limit(_: Resource) -> Option<u64> {
    None
}

fn at_most_100(_: Resource) -> Option<u64> {
    Some(100)
}

pub(crate) fn host(caps: Caps) -> Facts<'static> {
    Facts {
        caps,
        oom_score_adj: if caps.contains(SYS_RESOURCE) { -1000 } else { 0 },
        may_raise_limits: caps.contains(SYS_RESOURCE),
        has: &|_| false,
        hard_limit: &no_limit,
    }
}

pub(crate) fn all() -> Caps {
    Caps((1 << 41) - 1)
}

pub(crate) fn base() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["x"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}]},
    })
}

pub(crate) fn plan_on(spec: Value, facts: &Facts<'_>) -> Result<Plan, Error> {
    Plan::new("id", &serde_json::from_value(spec).unwrap(), facts)
}

pub(crate) fn plan(spec: Value) -> Result<Plan, Error> {
    plan_on(spec, &host(all()))
}

/// Changes one field of the base, named as a JSON pointer, and plans.
pub(crate) fn with(pointer: &str, value: Value) -> Result<Plan, Error> {
    let mut spec = base();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[name] = value;
    plan(spec)
}

fn refused(pointer: &str, value: Value) -> (Kind, String) {
    let error = with(pointer, value).unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn fields_that_nothing_reads_are_refused_by_name() {
    for (pointer, value) in [
        ("/linux/intelRdt", json!({"closID": "x"})),
        ("/linux/netDevices", json!({"eth0": {}})),
        ("/process/execCPUAffinity", json!({"initial": "0"})),
    ] {
        let (kind, text) = refused(pointer, value);
        let name = pointer.trim_start_matches('/').replace('/', ".");
        assert!(
            kind == Kind::Unimplemented && text.starts_with(&name),
            "{pointer}: {kind} {text}"
        );
    }
    // What is empty asks for nothing.
    with("/process/apparmorProfile", json!("")).unwrap();
    with("/hooks", json!({})).unwrap();
    assert_eq!(refused("/ociVersion", json!("2.0")).0, Kind::InvalidArgument);
}

#[test]
fn namespaces_are_new_or_joined_and_a_mount_namespace_is_a_must() {
    let plan = with(
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "network", "path": "/run/netns/x"}]),
    )
    .unwrap();
    assert_eq!(plan.namespaces.new, libc::CLONE_NEWNS);
    assert_eq!(plan.namespaces.join[0].kind, libc::CLONE_NEWNET);
    assert!(plan.namespaces.is_private(libc::CLONE_NEWNET) && !plan.namespaces.is_new(libc::CLONE_NEWNET));
    assert_eq!(refused("/linux/namespaces", json!([])).0, Kind::Unimplemented);
    let twice = json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid", "path": "/x"}]);
    assert_eq!(refused("/linux/namespaces", twice).0, Kind::InvalidArgument);
    let relative = json!([{"type": "mount"}, {"type": "pid", "path": "x"}]);
    assert_eq!(refused("/linux/namespaces", relative).0, Kind::InvalidArgument);
}

#[test]
fn names_and_sysctls_need_a_namespace_of_their_own() {
    let mut spec = base();
    spec["hostname"] = json!("x");
    spec["linux"]["sysctl"] =
        json!({"net.core.somaxconn": "1", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "3"});
    let good = plan(spec.clone()).unwrap();
    assert_eq!(good.hostname.as_deref(), Some("x"));
    let paths: Vec<_> = good.sysctls.iter().map(|one| one.path.to_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "sys/fs/mqueue/msg_max",
            "sys/kernel/shm_rmid_forced",
            "sys/net/core/somaxconn"
        ]
    );
    for missing in ["uts", "network", "ipc"] {
        let mut spec = spec.clone();
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|one| one["type"] != missing);
        assert_eq!(plan(spec).unwrap_err().kind(), Kind::InvalidArgument, "{missing}");
    }
    for name in ["a b", "a\nb", &"x".repeat(65)] {
        assert_eq!(refused("/hostname", json!(name)).0, Kind::InvalidArgument);
    }
}

#[test]
fn sysctls_are_names_and_never_paths() {
    let one = |key: &str, value: &str| sysctl::one(key, value, |_| true).map(|one| one.path.display().to_string());
    assert_eq!(
        one("net.ipv4.conf.eth0/1.forwarding", "1").unwrap(),
        "sys/net/ipv4/conf/eth0.1/forwarding"
    );
    assert_eq!(
        one("net/ipv4/conf/eth0.1/forwarding", "1").unwrap(),
        "sys/net/ipv4/conf/eth0.1/forwarding"
    );
    for (key, value) in [
        ("kernel.core_pattern", "|/x"),
        ("net/../kernel/core_pattern", "x"),
        ("net..x", "1"),
        ("/net/x", "1"),
        ("", "1"),
        ("net.x+kernel.core_pattern=|/x", "1"),
        ("net.core.somaxconn", "1\nkernel.core_pattern=x"),
        ("vm.swappiness", "1"),
    ] {
        assert!(one(key, value).is_err(), "{key}");
    }
}

#[test]
fn a_bound_dev_gets_no_nodes_and_a_listed_node_takes_the_place_of_a_default() {
    let plain = plan(base()).unwrap().devices;
    assert_eq!((plain.made.len(), plain.links, plain.bound.len()), (6, true, 0));
    let bound = with(
        "/mounts",
        json!([{"destination": "/dev", "source": "/dev", "options": ["rbind"]}]),
    )
    .unwrap()
    .devices;
    assert_eq!(bound, devices::Devices::default());
    let listed = json!([{"path": "/dev/./null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}]);
    let nodes = with("/linux/devices", listed).unwrap().devices.made;
    assert_eq!((nodes.len(), nodes[5].mode), (6, 0o600));
    let covered = json!([{"destination": "/dev/null", "source": "/s", "options": ["bind"]}]);
    assert_eq!(with("/mounts", covered).unwrap().devices.made.len(), 5);
    let withheld = plan_on(base(), &host(all().minus(sys::cap::MKNOD))).unwrap();
    assert_eq!(withheld.devices.bound.len(), 6);
    for bad in [
        json!({"path": "dev/x", "type": "c", "major": 1, "minor": 1}),
        json!({"path": "/dev/x", "type": "c", "major": -1, "minor": 1}),
        json!({"path": "/dev/x", "type": "a", "major": 1, "minor": 1}),
    ] {
        assert_eq!(refused("/linux/devices", json!([bad])).0, Kind::InvalidArgument);
    }
}

#[test]
fn device_rules_begin_closed_and_end_with_the_defaults() {
    for given in [json!(null), json!({}), json!({"devices": []})] {
        let rules = with("/linux/resources", given)
            .unwrap()
            .resources
            .devices()
            .clone()
            .unwrap();
        assert!(!rules[0].allow());
        assert!(
            rules[1..]
                .iter()
                .all(|rule| rule.allow() && (rule.access().as_deref() == Some("m") || rule.major().is_some()))
        );
    }
    let given = json!({"devices": [{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]});
    let rules = with("/linux/resources", given)
        .unwrap()
        .resources
        .devices()
        .clone()
        .unwrap();
    assert_eq!((rules[1].major(), rules.len()), (Some(10), 13));
}

#[test]
fn the_cgroup_is_a_plain_path() {
    assert_eq!(plan(base()).unwrap().cgroup_path, "/bulkhead/id");
    assert_eq!(with("/linux/cgroupsPath", json!("/a/b")).unwrap().cgroup_path, "/a/b");
    for bad in ["a/b", "/a/../b", "/..", "/", "system.slice:x:y"] {
        assert_eq!(
            refused("/linux/cgroupsPath", json!(bad)).0,
            Kind::InvalidArgument,
            "{bad}"
        );
    }
}

#[test]
fn identities_are_ids() {
    let user = json!({"uid": 1, "gid": 2, "additionalGids": [3, 4]});
    let process = with("/process/user", user).unwrap().process;
    assert_eq!(
        (process.uid, process.gid, process.groups, process.umask),
        (1, 2, vec![3, 4], 0o022)
    );
    for bad in [
        json!({"uid": u32::MAX, "gid": 0}),
        json!({"uid": 0, "gid": u32::MAX}),
        json!({"uid": 0, "gid": 0, "additionalGids": [u32::MAX]}),
        json!({"uid": 0, "gid": 0, "additionalGids": vec![1; 20_000]}),
        json!({"uid": 0, "gid": 0, "umask": 0o1000}),
    ] {
        assert_eq!(refused("/process/user", bad).0, Kind::InvalidArgument);
    }
    // Above 32 bits it is no user at all, and never 0.
    for bad in [json!(4_294_967_296_u64), json!(-1), json!("0")] {
        let mut spec = base();
        spec["process"]["user"]["uid"] = bad;
        assert!(serde_json::from_value::<Spec>(spec).is_err());
    }
}

#[test]
fn programs_directories_and_strings_are_checked() {
    assert_eq!(refused("/process/args", json!([])).0, Kind::InvalidArgument);
    assert_eq!(refused("/process/args", json!([""])).0, Kind::InvalidArgument);
    assert_eq!(refused("/process/args", json!(["a\0b"])).0, Kind::InvalidArgument);
    assert_eq!(refused("/process/env", json!(["A=\0"])).0, Kind::InvalidArgument);
    assert_eq!(refused("/process/cwd", json!("relative")).0, Kind::InvalidArgument);
    assert_eq!(refused("/process/cwd", json!("")).0, Kind::InvalidArgument);
    let mut reaper = base();
    reaper["annotations"] = json!({"io.bulkhead.init": "reaper"});
    reaper["process"]["args"] = json!([]);
    assert!(plan(reaper.clone()).unwrap().reaper);
    reaper["annotations"] = json!({"io.bulkhead.init": "other"});
    assert_eq!(plan(reaper).unwrap_err().kind(), Kind::InvalidArgument);
}

#[test]
fn capabilities_are_what_is_asked_and_granted() {
    let sets = |names: Value| json!({"bounding": names, "permitted": names, "effective": names});
    let mut spec = base();
    spec["process"]["capabilities"] = sets(json!(["CAP_SYS_RESOURCE", "CAP_KILL"]));
    let kill = Caps::named("CAP_KILL").unwrap();
    let full = plan(spec.clone()).unwrap();
    assert_eq!(
        (full.process.caps.bounding, full.clamped.len()),
        (kill.union(SYS_RESOURCE), 0)
    );
    let less = plan_on(spec, &host(all().minus(SYS_RESOURCE))).unwrap();
    assert_eq!((less.process.caps.bounding, less.process.caps.effective), (kill, kill));
    assert!(less.clamped[0].contains("CAP_SYS_RESOURCE"));
    assert_eq!(plan(base()).unwrap().process.caps, process::CapPlan::default());
    let beyond = json!({"bounding": ["CAP_KILL"], "permitted": [], "effective": ["CAP_KILL"]});
    assert_eq!(refused("/process/capabilities", beyond).0, Kind::InvalidArgument);
    // Ambient without inheritable is not raised.
    let ambient = json!({"permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
    assert!(
        with("/process/capabilities", ambient)
            .unwrap()
            .process
            .caps
            .ambient
            .is_empty()
    );
    // Unknown names end at the parser.
    let mut spec = base();
    spec["process"]["capabilities"] = sets(json!(["CAP_NONSENSE"]));
    assert!(serde_json::from_value::<Spec>(spec).is_err());
}

#[test]
fn limits_and_scores_are_clamped_only_where_the_host_withholds() {
    let mut spec = base();
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 1000}]);
    spec["process"]["oomScoreAdj"] = json!(-999);
    let free = plan(spec.clone()).unwrap();
    assert_eq!(
        (
            free.process.limits[0].1.hard,
            free.process.oom_score_adj,
            free.clamped.len()
        ),
        (Some(1000), Some(-999), 0)
    );
    let bound = Facts {
        hard_limit: &at_most_100,
        ..host(all().minus(SYS_RESOURCE))
    };
    let less = plan_on(spec.clone(), &bound).unwrap();
    let limit = less.process.limits[0].1;
    assert_eq!(
        (limit.soft, limit.hard, less.process.oom_score_adj),
        (Some(50), Some(100), Some(0))
    );
    assert_eq!(less.clamped.len(), 2);
    spec["process"]["oomScoreAdj"] = json!(500);
    assert_eq!(plan_on(spec, &bound).unwrap().process.oom_score_adj, Some(500));

    let twice = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 1, "hard": 1}]);
    assert_eq!(refused("/process/rlimits", twice).0, Kind::InvalidArgument);
    let above = json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]);
    assert_eq!(refused("/process/rlimits", above).0, Kind::InvalidArgument);
    assert_eq!(refused("/process/oomScoreAdj", json!(1001)).0, Kind::InvalidArgument);
    let infinite = json!([{"type": "RLIMIT_CORE", "soft": u64::MAX, "hard": u64::MAX}]);
    assert_eq!(
        with("/process/rlimits", infinite).unwrap().process.limits[0].1.hard,
        None
    );
}

#[test]
fn scheduling_is_translated() {
    let process = with("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}))
        .unwrap()
        .process;
    let attr = process.scheduler.unwrap();
    assert_eq!((attr.policy, attr.nice), (3, 5));
    assert_eq!(
        refused("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 40})).0,
        Kind::InvalidArgument
    );
    let io = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7});
    assert_eq!(
        with("/process/ioPriority", io).unwrap().process.io_priority,
        Some((3, 7))
    );
    let bad = json!({"class": "IOPRIO_CLASS_BE", "priority": 8});
    assert_eq!(refused("/process/ioPriority", bad).0, Kind::InvalidArgument);
}

#[test]
fn paths_to_mask_are_absolute_and_propagation_is_a_known_word() {
    assert_eq!(refused("/linux/maskedPaths", json!(["proc"])).0, Kind::InvalidArgument);
    assert_eq!(
        refused("/linux/readonlyPaths", json!(["/a\0b"])).0,
        Kind::InvalidArgument
    );
    assert_eq!(
        refused("/linux/rootfsPropagation", json!("loud")).0,
        Kind::InvalidArgument
    );
    assert!(
        with("/linux/rootfsPropagation", json!("rslave"))
            .unwrap()
            .rootfs_propagation
            .is_some()
    );
}

#[test]
fn time_offsets_need_a_new_time_namespace() {
    let mut spec = base();
    spec["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 5, "nanosecs": 6}, "boottime": {"secs": -1}});
    assert_eq!(plan(spec.clone()).unwrap_err().kind(), Kind::InvalidArgument);
    spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "time"}));
    let text = plan(spec).unwrap().time_offsets.unwrap();
    assert_eq!(text, "boottime -1 0\nmonotonic 5 6\n");
    let clocks: HashMap<&str, Value> = HashMap::from([("realtime", json!({"secs": 1}))]);
    assert_eq!(refused("/linux/timeOffsets", json!(clocks)).0, Kind::InvalidArgument);
}

#[test]
fn the_cgroup_is_the_users_where_it_is_the_root_of_a_namespace_and_writable() {
    let spec = |namespace: bool, access: &str, uid: u32| {
        let mut spec = base();
        if namespace {
            let list = spec["linux"]["namespaces"].as_array_mut().unwrap();
            list.push(json!({"type": "cgroup"}));
        }
        spec["mounts"] = json!([{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", access]}]);
        spec["process"]["user"]["uid"] = json!(uid);
        spec
    };
    let owner = |spec| plan(spec).unwrap().cgroup_owner();
    assert_eq!(owner(spec(true, "rw", 1000)), Some(1000));
    // Nothing to give: the host's root has it, it is read only, or the host's cgroups are in sight.
    for (namespace, access, uid) in [
        (true, "rw", 0),
        (true, "ro", 1000),
        (true, "rro", 1000),
        (false, "rw", 1000),
    ] {
        assert_eq!(owner(spec(namespace, access, uid)), None, "{namespace} {access} {uid}");
    }
    let mut mapped = spec(true, "rw", 7);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    mapped["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    mapped["linux"]["uidMappings"] = map.clone();
    mapped["linux"]["gidMappings"] = map;
    assert_eq!(owner(mapped.clone()), Some(100_007));
    mapped["process"]["user"]["uid"] = json!(0);
    assert_eq!(owner(mapped), Some(100_000));
}

#[test]
fn a_keyring_of_its_own_unless_the_specification_says_inherited() {
    assert!(plan(base()).unwrap().keyring);
    let mut spec = base();
    spec["annotations"] = json!({"io.bulkhead.keyring": "inherited"});
    assert!(!plan(spec.clone()).unwrap().keyring);
    spec["annotations"] = json!({"io.bulkhead.keyring": "other"});
    assert_eq!(plan(spec).unwrap_err().kind(), Kind::InvalidArgument);
}
