//! Names of cgroups, by the driver of the run: `BULKHEAD_E2E_CGROUP_DRIVER=systemd` wants cgroup v2
//! and systemd as pid 1 (`hack/vm`); cgroupfs otherwise.

use crate::node::Node;

/// Whether systemd makes the cgroups.
#[must_use]
pub fn by_systemd() -> bool {
    std::env::var("BULKHEAD_E2E_CGROUP_DRIVER").as_deref() == Ok("systemd")
}

/// Lines for our configuration file.
#[must_use]
pub fn config(node: &Node) -> String {
    let driver = if by_systemd() { "cgroup_driver: systemd\n" } else { "" };
    format!("cgroup_root: {}\n{driver}", node.name())
}

/// Where the cgroups of a server called `name` are, below a hierarchy's mount.
#[must_use]
pub fn root(name: &str) -> String {
    if by_systemd() { slice(name) } else { format!("/{name}") }
}

/// Where systemd has the slice of this name: `a-b.slice` lies in `a.slice`.
fn slice(name: &str) -> String {
    let mut path = String::new();
    for (at, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push_str(&format!("/{}.slice", &name[..at]));
    }
    path
}

/// A pod's parent as the kubelet names it, and where it is.
#[must_use]
pub fn parent(node: &Node, name: &str) -> (String, String) {
    if by_systemd() {
        // A dash would nest.
        let unit = format!("{}-parent_{}", node.name(), name.replace('-', "_"));
        (format!("{unit}.slice"), slice(&unit))
    } else {
        let path = format!("/{}/parent-{name}", node.name());
        (path.clone(), path)
    }
}

/// The name of a container's own cgroup.
#[must_use]
pub fn container(id: &str) -> String {
    if by_systemd() {
        format!("bulkhead-{id}.scope")
    } else {
        id.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn slices_nest() {
        assert_eq!(super::slice("a-b-c"), "/a.slice/a-b.slice/a-b-c.slice");
        assert_eq!(super::slice("a"), "/a.slice");
    }
}
