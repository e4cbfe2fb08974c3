//! Which cgroup version is mounted, and which controllers a container can have.

use super::{Finding, text};

/// Controllers without which a limit that a pod asks for would silently not hold.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// What the mount table says of cgroups.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    v1: Vec<String>,
    v2: Option<String>,
}

pub(super) fn findings() -> Vec<Finding> {
    let table = text("/proc/self/mountinfo").unwrap_or_default();
    let mounted = parse(&table);
    let of_v2 = mounted
        .v2
        .as_ref()
        .and_then(|at| text(format!("{at}/cgroup.controllers")))
        .unwrap_or_default();
    judge(&mounted, of_v2.trim())
}

fn judge(mounted: &Mounted, of_v2: &str) -> Vec<Finding> {
    let version = match (&mounted.v1.is_empty(), &mounted.v2) {
        (true, None) => {
            return vec![Finding::missing(
                "cgroups",
                "none mounted",
                "no container can be limited or counted: mount cgroup2",
            )];
        }
        (true, Some(at)) => Finding::ok("cgroups", format!("v2 at {at}")),
        (false, None) => Finding::warn("cgroups", "v1", V1_CONSEQUENCE),
        (false, Some(at)) => Finding::warn("cgroups", format!("v1, with v2 at {at} (hybrid)"), V1_CONSEQUENCE),
    };
    let is_v1 = !mounted.v1.is_empty();
    let all: Vec<&str> = if is_v1 {
        mounted
            .v1
            .iter()
            .map(String::as_str)
            .chain(of_v2.split_whitespace())
            .collect()
    } else {
        of_v2.split_whitespace().collect()
    };
    let mut absent: Vec<&str> = NEEDED.into_iter().filter(|name| !all.contains(name)).collect();
    // On v2 devices are a BPF program and freezing is built in; on v1 both are controllers.
    if is_v1 {
        absent.extend(["devices", "freezer"].into_iter().filter(|name| !all.contains(name)));
    }
    let controllers = if absent.is_empty() {
        Finding::ok("cgroup controllers", all.join(" "))
    } else {
        let consequence =
            "limits of these kinds cannot hold; the kernel's command line may switch them off (cgroup_disable)";
        Finding::missing(
            "cgroup controllers",
            format!("not there: {}", absent.join(" ")),
            consequence,
        )
    };
    let mut findings = vec![version, controllers];
    for (name, what) in [("cpuset", "cpu pinning"), ("hugetlb", "limits on huge pages")] {
        if !all.contains(&name) {
            findings.push(Finding::warn(
                "cgroup controller",
                format!("no {name}"),
                format!("no {what}"),
            ));
        }
    }
    findings
}

const V1_CONSEQUENCE: &str =
    "no memory QoS, no pressure figures, OOM kills single processes; the kubelet needs failCgroupV1: false";

fn parse(table: &str) -> Mounted {
    const CONTROLLERS: [&str; 12] = [
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
    ];
    let mut mounted = Mounted {
        v1: Vec::new(),
        v2: None,
    };
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        match kind {
            "cgroup" => mounted.v1.extend(
                options
                    .split(',')
                    .filter(|o| CONTROLLERS.contains(o))
                    .map(str::to_owned),
            ),
            "cgroup2" => mounted.v2 = left.split(' ').nth(4).map(str::to_owned),
            _ => {}
        }
    }
    mounted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host_is_understood() {
        let mounted = parse(HYBRID);
        assert_eq!(mounted.v1, ["cpu", "cpuacct", "memory", "devices"]);
        assert_eq!(mounted.v2.as_deref(), Some("/sys/fs/cgroup/unified"));
        let findings = judge(&mounted, "hugetlb");
        assert_eq!(findings[0].level, Level::Warn);
        assert_eq!(findings[1].found, "not there: pids freezer");
    }

    #[test]
    fn v2_with_its_controllers_is_fine() {
        let mounted = parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        let findings = judge(&mounted, "cpuset cpu io memory hugetlb pids rdma misc");
        assert!(
            findings.iter().all(|finding| finding.level == Level::Ok),
            "{findings:?}"
        );
        assert_eq!(judge(&mounted, "cpuset cpu io")[1].level, Level::Missing);
    }

    #[test]
    fn no_cgroups_at_all_is_missing() {
        assert_eq!(judge(&parse(""), "")[0].level, Level::Missing);
    }
}
