use super::*;
use crate::fs::Dir;

fn dirs(version: Version) -> Vec<Dir> {
    [
        "cpu", "cpuset", "memory", "devices", "blkio", "io", "pids", "hugetlb", "rdma",
    ]
    .into_iter()
    .filter(|name| *name != if version == Version::V1 { "io" } else { "blkio" })
    .map(|name| Dir {
        path: "/nowhere".into(),
        mount: "/".into(),
        version,
        controllers: vec![name.to_owned()],
        kept: None,
    })
    .collect()
}

fn lines(version: Version, limits: &str, current: Current) -> Vec<String> {
    let limits: LinuxResources = serde_json::from_str(limits).unwrap();
    let plan = plan(&limits, Layout { dirs: &dirs(version) }, current).unwrap();
    plan.writes
        .iter()
        .map(|write| format!("{}={}", write.file, write.value))
        .collect()
}

fn fails(version: Version, limits: &str) -> Error {
    let limits: LinuxResources = serde_json::from_str(limits).unwrap();
    plan(&limits, Layout { dirs: &dirs(version) }, Current::default()).unwrap_err()
}

const POD: &str = r#"{
    "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
    "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
    "pids": {"limit": 100}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]
}"#;

#[test]
fn v1_spelling_and_order() {
    let expected = [
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "memory.limit_in_bytes=1000",
        "memory.memsw.limit_in_bytes=3000",
        "memory.soft_limit_in_bytes=500",
        "cpu.shares=1024",
        "cpu.cfs_period_us=100000",
        "cpu.cfs_quota_us=50000",
        "pids.max=100",
        "hugetlb.2MB.limit_in_bytes=0",
        "hugetlb.2MB.rsvd.limit_in_bytes=0",
    ];
    assert_eq!(lines(Version::V1, POD, Current::default()), expected);
}

#[test]
fn v1_growing_sets_memory_and_swap_first() {
    let lines = lines(
        Version::V1,
        POD,
        Current {
            memory_and_swap: Some(2000),
        },
    );
    assert_eq!(
        lines[2..4],
        ["memory.memsw.limit_in_bytes=3000", "memory.limit_in_bytes=1000"]
    );
}

#[test]
fn v2_spelling_and_order() {
    let expected = [
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "memory.swap.max=2000",
        "memory.max=1000",
        "memory.low=500",
        "cpu.weight=100",
        "cpu.max=50000 100000",
        "pids.max=100",
        "hugetlb.2MB.max=0",
        "hugetlb.2MB.rsvd.max=0",
    ];
    assert_eq!(lines(Version::V2, POD, Current::default()), expected);
}

#[test]
fn unlimited() {
    let limits =
        r#"{"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1, "period": 5000}, "pids": {"limit": -1}}"#;
    let v1 = [
        "memory.limit_in_bytes=-1",
        "memory.memsw.limit_in_bytes=-1",
        "cpu.cfs_period_us=5000",
        "cpu.cfs_quota_us=-1",
        "pids.max=max",
    ];
    assert_eq!(lines(Version::V1, limits, Current::default()), v1);
    assert_eq!(
        lines(Version::V2, limits, Current::default()),
        [
            "memory.swap.max=max",
            "memory.max=max",
            "cpu.max=max 5000",
            "pids.max=max"
        ]
    );
}

#[test]
fn zero_means_not_asked() {
    let limits = r#"{"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": ""}, "pids": {"limit": 0}}"#;
    assert!(lines(Version::V1, limits, Current::default()).is_empty());
    assert!(lines(Version::V2, limits, Current::default()).is_empty());
}

#[test]
fn weights_meet_at_the_defaults() {
    for (shares, weight) in [
        (0, 1),
        (2, 1),
        (102, 17),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(cpu::weight(shares), weight, "{shares} shares");
    }
    let all: Vec<u64> = (2..=262_144).step_by(97).map(cpu::weight).collect();
    assert!(all.is_sorted());
}

#[test]
fn block_io() {
    let limits = r#"{"blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]}}"#;
    let v1 = [
        "blkio.bfq.weight=500",
        "blkio.throttle.read_bps_device=8:0 1000",
        "blkio.throttle.write_iops_device=8:16 0",
    ];
    assert_eq!(lines(Version::V1, limits, Current::default()), v1);
    let v2 = [
        "io.bfq.weight=500",
        "io.weight=4950",
        "io.max=8:0 rbps=1000",
        "io.max=8:16 wiops=max",
    ];
    assert_eq!(lines(Version::V2, limits, Current::default()), v2);
}

#[test]
fn unified_files_come_last_and_stay_in_their_directory() {
    let limits = r#"{"memory": {"limit": 5}, "unified": {"memory.high": "4", "pids.max": "7"}}"#;
    assert_eq!(
        lines(Version::V2, limits, Current::default()),
        ["memory.max=5", "memory.high=4", "pids.max=7"]
    );
    for bad in [
        "../memory.max",
        "memory.max/x",
        "cgroup.procs",
        "cgroup.subtree_control",
        "nonsense",
    ] {
        fails(Version::V2, &format!(r#"{{"unified": {{"{bad}": "1"}}}}"#));
    }
    assert!(matches!(
        fails(Version::V1, r#"{"unified": {"memory.high": "4"}}"#),
        Error::Missing { .. }
    ));
}

#[test]
fn hostile_values_are_refused() {
    for list in [
        "0-2147483647",
        "0-4294967295",
        "1,,2",
        " ",
        "3-1",
        "a",
        "-",
        "0-",
        "1 2",
        "1\n2",
    ] {
        let limits = serde_json::json!({"cpu": {"cpus": list}}).to_string();
        assert!(matches!(fails(Version::V1, &limits), Error::Invalid { .. }), "{list:?}");
    }
    for size in ["", "2", "MB", "2mb", "../2MB", "2MB/x", "2TB"] {
        let limits = serde_json::json!({"hugepageLimits": [{"pageSize": size, "limit": 1}]}).to_string();
        assert!(matches!(fails(Version::V2, &limits), Error::Invalid { .. }), "{size:?}");
    }
    fails(Version::V1, r#"{"memory": {"limit": 10, "swap": 5}}"#);
    fails(Version::V2, r#"{"memory": {"swap": 5}}"#);
    fails(Version::V1, r#"{"memory": {"limit": 10, "swappiness": 101}}"#);
    fails(Version::V2, r#"{"memory": {"disableOOMKiller": true}}"#);
    fails(Version::V1, r#"{"blockIO": {"weight": 5}}"#);
    fails(Version::V1, r#"{"rdma": {"mlx 0": {"hcaHandles": 1}}}"#);
}

#[test]
fn a_missing_controller_is_an_error_but_for_huge_pages() {
    let limits: LinuxResources =
        serde_json::from_str(r#"{"hugepageLimits": [{"pageSize": "1GB", "limit": 0}]}"#).unwrap();
    assert_eq!(
        plan(&limits, Layout::default(), Current::default())
            .unwrap()
            .skipped
            .len(),
        1
    );
    let limits: LinuxResources = serde_json::from_str(r#"{"memory": {"limit": 5}}"#).unwrap();
    assert!(matches!(
        plan(&limits, Layout::default(), Current::default()),
        Err(Error::Missing {
            controller: "memory",
            ..
        })
    ));
}

#[test]
fn shares_and_weight_turn_into_one_another() {
    for weight in [1, 39, 100, 500, 10_000] {
        assert_eq!(cpu::weight(shares(weight)), weight, "weight {weight}");
    }
    assert_eq!(cpu::weight(shares(cpu::weight(1024))), cpu::weight(1024));
}
