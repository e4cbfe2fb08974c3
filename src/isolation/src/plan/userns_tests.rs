//! Rules of the plan for a container in a user namespace.

use serde_json::{Value, json};
use spec::Kind;
use sys::cap::{Caps, SYS_RESOURCE};

use super::tests::{all, base, host, plan, plan_on};
use super::*;

/// The base in a new user namespace of 65536 ids.
fn inside() -> Value {
    let mut spec = base();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    spec["mounts"] = json!([{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}]);
    spec
}

fn changed(pointer: &str, value: Value) -> Result<Plan, Error> {
    let mut spec = inside();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[name] = value;
    plan(spec)
}

fn refused(pointer: &str, value: Value) -> String {
    let error = changed(pointer, value).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    error.to_string()
}

#[test]
fn it_is_made_or_joined_with_its_maps() {
    let user = plan(inside()).unwrap().user.unwrap();
    assert_eq!((user.maps.root().unwrap(), user.join), ((100_000, 100_000), None));
    let namespaces = json!([{"type": "mount"}, {"type": "user", "path": "/run/u"}]);
    let joined = changed("/linux/namespaces", namespaces).unwrap();
    assert_eq!(joined.user.unwrap().join, Some("/run/u".into()));
    assert_eq!(joined.namespaces.new, libc::CLONE_NEWNS);
    assert!(plan(base()).unwrap().user.is_none());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let map = |inside: u32, outside: u32| json!([{"containerID": inside, "hostID": outside, "size": 10}]);
    assert!(refused("/linux/uidMappings", json!([])).contains("linux.uidMappings"));
    assert!(refused("/linux/gidMappings", map(1, 1000)).contains("id 0"));
    assert!(refused("/linux/namespaces", json!([{"type": "mount"}])).contains("needs a user namespace"));
    let twice = json!([{"type": "mount"}, {"type": "user"}, {"type": "user"}]);
    assert!(refused("/linux/namespaces", twice).contains("twice"));
    let relative = json!([{"type": "mount"}, {"type": "user", "path": "u"}]);
    assert!(refused("/linux/namespaces", relative).contains("absolute"));
    assert!(refused("/process/user", json!({"uid": 65536, "gid": 0})).contains("65536 is not mapped"));
    assert!(refused("/process/user", json!({"uid": 0, "gid": 65536})).contains("not mapped"));
    let group = json!({"uid": 0, "gid": 0, "additionalGids": [70_000]});
    assert!(refused("/process/user", group).contains("70000"));
}

#[test]
fn it_has_all_capabilities_and_raises_no_limit() {
    let mut spec = inside();
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 1000}]);
    spec["process"]["oomScoreAdj"] = json!(-999);
    let names = json!(["CAP_SYS_RESOURCE"]);
    spec["process"]["capabilities"] = json!({"bounding": names, "permitted": names});
    let most = |_| Some(100);
    let facts = Facts {
        hard_limit: &most,
        ..host(all())
    };
    let plan = plan_on(spec, &facts).unwrap();
    // The score is set on the host's side, the limit inside.
    assert_eq!(plan.process.oom_score_adj, Some(-999));
    assert_eq!(plan.process.limits[0].1.hard, Some(100));
    assert_eq!((plan.process.caps.permitted, plan.clamped.len()), (SYS_RESOURCE, 1));
    // A host that withholds a capability withholds none over the namespace.
    let bare = plan_on(inside(), &host(Caps::default())).unwrap();
    assert!(bare.clamped.is_empty());
}

#[test]
fn labels_need_their_module() {
    let with = |pointer: &str, has: bool| {
        let mut spec = base();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[name] = json!("label");
        plan_on(
            spec,
            &Facts {
                has: &|_| has,
                ..host(all())
            },
        )
    };
    for (pointer, module) in [
        ("/process/apparmorProfile", "AppArmor"),
        ("/process/selinuxLabel", "SELinux"),
        ("/linux/mountLabel", "SELinux"),
    ] {
        let error = with(pointer, false).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(
            error.to_string().contains(&format!("this host has no {module}")),
            "{error}"
        );
        assert!(with(pointer, true).is_ok());
    }
    let labels = with("/process/apparmorProfile", true).unwrap().process.labels;
    assert_eq!(labels.apparmor.as_deref(), Some("label"));
    let mut spec = base();
    spec["process"]["apparmorProfile"] = json!("unconfined");
    assert!(plan(spec.clone()).unwrap().process.labels.is_empty());
    spec["process"]["apparmorProfile"] = json!("a\nb");
    assert_eq!(plan(spec).unwrap_err().kind(), Kind::InvalidArgument);
}

#[test]
fn nodes_are_made_ahead_in_a_dev_of_its_own() {
    let listed = json!([
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "uid": 0, "gid": 0},
        {"path": "/opt/fuse", "type": "c", "major": 10, "minor": 229},
    ]);
    let devices = changed("/linux/devices", listed).unwrap().devices;
    assert_eq!(
        (devices.made.len(), devices.ahead.len(), devices.bound.len()),
        (0, 7, 1)
    );
    // What every container has is its own; what the host lends stays the host's.
    assert_eq!((devices.ahead[0].uid, devices.ahead[6].uid), (100_000, 0));
    assert_eq!(changed("/mounts", json!([])).unwrap().devices.bound.len(), 6);
}

#[test]
fn mounts_are_idmapped_by_option_or_mapping() {
    let mount = |value: Value| {
        let mut value = value;
        value["destination"] = json!("/x");
        value["source"] = json!("/s");
        let plan = changed("/mounts", json!([value]));
        plan.map(|plan| plan.mounts.into_iter().next().unwrap().idmap)
    };
    let map = json!([{"containerID": 0, "hostID": 5, "size": 1}]);
    let mapped = mount(json!({"options": ["bind"], "uidMappings": map, "gidMappings": map}))
        .unwrap()
        .unwrap();
    assert_eq!(
        (mapped.maps.unwrap().root().unwrap(), mapped.recursive),
        ((5, 5), false)
    );
    let own = mount(json!({"options": ["rbind", "ridmap"]})).unwrap().unwrap();
    assert!(own.maps.is_none() && own.recursive);
    assert_eq!(mount(json!({"options": ["bind"]})).unwrap(), None);
    let half = mount(json!({"options": ["bind"], "uidMappings": map})).unwrap_err();
    assert_eq!(half.kind(), Kind::InvalidArgument);
    let fs = mount(json!({"type": "tmpfs", "options": ["idmap"]})).unwrap_err();
    assert_eq!(fs.kind(), Kind::Unimplemented);
}

#[test]
fn the_one_sysctl_with_ids_is_translated_and_clipped() {
    let maps = userns::Maps::new(
        "x",
        vec![userns::IdMap {
            inside: 0,
            outside: 1000,
            size: 10,
        }],
        vec![userns::IdMap {
            inside: 0,
            outside: 1000,
            size: 10,
        }],
    )
    .unwrap();
    let range = |value: &str| {
        let one = sysctl::one("net.ipv4.ping_group_range", value, |_| true).unwrap();
        one.for_groups(&maps).map(|one| one.value)
    };
    assert_eq!(range("0 2147483647").unwrap(), "1000 1009");
    assert_eq!(range("3\t4").unwrap(), "1003 1004");
    assert_eq!(range("1 0").unwrap(), "1 0");
    assert!(range("10 20").is_err() && range("x").is_err());
    let other = sysctl::one("net.ipv4.ip_forward", "1", |_| true).unwrap();
    assert_eq!(other.clone().for_groups(&maps).unwrap(), other);
}
