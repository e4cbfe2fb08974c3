//! Which crate may use which. `cargo metadata` tells what is; the list below what may be.
//!
//! ```text
//! L4  bulkhead (daemon)         e2e (black box)            xtask
//! L3  cri   ctl                 bulkhead-conmon   bulkhead-oci      bulkhead-cni
//! L2                               └── isolation ──┘                      │
//! L1  config image cni-invoke stream    cgroup   seccomp             cni-netlink
//! L0  spec   sys   proto   cni-types                     (no crate of ours below)
//! ```
//!
//! An edge goes to a lower row, and only where the list names it. Above all, the daemon's
//! tree does not contain `isolation`: that code runs in monitors, so that a fault in it
//! takes down one container and not the node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::checks::Violation;
use crate::run;

/// Row, crate, crates of ours that it may use.
const ALLOWED: [(u8, &str, &[&str]); 19] = [
    (0, "spec", &[]),
    (0, "sys", &[]),
    (0, "proto", &[]),
    (0, "cni-types", &[]),
    (1, "config", &["spec"]),
    (1, "image", &["spec", "sys"]),
    (1, "stream", &["spec"]),
    (1, "cgroup", &["spec", "sys"]),
    (1, "seccomp", &["spec", "sys"]),
    (1, "cni-invoke", &["cni-types", "spec", "sys"]),
    (1, "cni-netlink", &["spec", "sys"]),
    (2, "isolation", &["cgroup", "seccomp", "spec", "sys"]),
    (
        3,
        "cri",
        &[
            "cgroup",
            "cni-invoke",
            "cni-netlink",
            "cni-types",
            "config",
            "image",
            "proto",
            "seccomp",
            "spec",
            "stream",
            "sys",
        ],
    ),
    (3, "ctl", &["proto", "spec"]),
    (3, "bulkhead-conmon", &["cgroup", "isolation", "proto", "spec", "sys"]),
    (3, "bulkhead-cni", &["cni-netlink", "cni-types", "spec", "sys"]),
    (
        4,
        "bulkhead",
        &[
            "cgroup",
            "cni-invoke",
            "config",
            "cri",
            "ctl",
            "image",
            "proto",
            "spec",
            "stream",
            "sys",
        ],
    ),
    (4, "e2e", &["proto", "spec"]),
    (4, "xtask", &[]),
];

/// What tests use beside that: the network suite drives the plugins by their caller, ctl talks to the real server.
const TESTS_ALSO: [(&str, &str); 2] = [("bulkhead-cni", "cni-invoke"), ("ctl", "stream")];

/// The daemon, and what may not be in its tree.
const WALL: (&str, &str) = ("bulkhead", "isolation");

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Checks the workspace at `root`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<Violation>> {
    let words = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
    let metadata = serde_json::from_slice(&run::output(&mut run::cargo(root, &words))?)?;
    Ok(judge(&edges(&metadata)?))
}

/// Who uses whom, among the members of the workspace, for whatever purpose: a test that
/// reaches upwards ties the crates together as well.
fn edges(metadata: &Value) -> anyhow::Result<Edges> {
    let packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .context("cargo metadata lists packages")?;
    let name = |value: &Value| {
        value
            .get("name")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("a package has a name")
    };
    let members: BTreeSet<String> = packages.iter().map(name).collect::<anyhow::Result<_>>()?;
    let mut edges = Edges::new();
    for package in packages {
        let uses = edges.entry(name(package)?).or_default();
        let dependencies = package
            .get("dependencies")
            .and_then(Value::as_array)
            .context("a package has dependencies")?;
        for dependency in dependencies {
            let used = name(dependency)?;
            let is_test = dependency.get("kind").and_then(Value::as_str) == Some("dev");
            if is_test
                && TESTS_ALSO
                    .iter()
                    .any(|(user, also)| *also == used && name(package).is_ok_and(|name| name == *user))
            {
                continue;
            }
            if members.contains(&used) && dependency.get("path").is_some_and(Value::is_string) {
                uses.insert(used);
            }
        }
    }
    Ok(edges)
}

fn judge(edges: &Edges) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (user, uses) in edges {
        let Some((_, _, allowed)) = ALLOWED.iter().find(|(_, name, _)| name == user) else {
            violations.push(Violation::of_crate(
                user,
                "has no row: name it in hack/xtask/src/layers.rs",
            ));
            continue;
        };
        for used in uses.iter().filter(|used| !allowed.contains(&used.as_str())) {
            violations.push(Violation::of_crate(user, &format!("must not use {used}")));
        }
    }
    let (daemon, walled) = WALL;
    if let Some(way) = way(edges, daemon, walled) {
        let what = format!("must not contain {walled}, but does by {}", way.join(" -> "));
        violations.push(Violation::of_crate(daemon, &what));
    }
    violations
}

/// The way from one crate down to another, if there is one.
fn way(edges: &Edges, from: &str, to: &str) -> Option<Vec<String>> {
    if from == to {
        return Some(vec![to.to_owned()]);
    }
    edges.get(from)?.iter().find_map(|next| {
        let mut rest = way(edges, next, to)?;
        rest.insert(0, from.to_owned());
        Some(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::fixture;

    fn violations(name: &str) -> Vec<String> {
        check(&fixture(&format!("layers/{name}")))
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_list_itself_goes_down() {
        let row = |name: &str| {
            ALLOWED
                .iter()
                .find(|(_, other, _)| *other == name)
                .map(|(row, _, _)| *row)
        };
        for (above, user, allowed) in ALLOWED {
            for used in allowed {
                assert!(row(used).unwrap() < above, "{user} -> {used}");
            }
        }
    }

    #[test]
    fn an_edge_upwards_is_caught() {
        assert_eq!(violations("upward"), ["config: must not use cri"]);
    }

    #[test]
    fn isolation_in_the_daemon_is_caught_however_it_comes() {
        assert_eq!(
            violations("wall"),
            [
                "image: must not use isolation",
                "bulkhead: must not contain isolation, but does by bulkhead -> image -> isolation"
            ]
        );
    }

    #[test]
    fn a_crate_without_a_row_is_caught() {
        assert_eq!(
            violations("stranger"),
            ["newcomer: has no row: name it in hack/xtask/src/layers.rs"]
        );
    }

    #[test]
    fn this_workspace_is_in_order() {
        let found: Vec<String> = check(&crate::root().unwrap())
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(found.is_empty(), "{found:#?}");
    }
}
