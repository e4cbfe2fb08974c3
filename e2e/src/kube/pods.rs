//! Pods as JSON, and what their status says.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A pod with these containers; `spec` is merged over the usual fields.
#[must_use]
pub fn pod(name: &str, containers: &[Value], spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 5},
    });
    merge(&mut pod["spec"], spec);
    pod
}

/// A container of busybox that runs a shell script; `more` is merged over it.
#[must_use]
pub fn shell(name: &str, script: &str, more: Value) -> Value {
    let mut container = json!({
        "name": name, "image": crate::catalog::BUSYBOX, "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", script],
    });
    merge(&mut container, more);
    container
}

/// A container of agnhost.
#[must_use]
pub fn agnhost(name: &str, args: &[&str], more: Value) -> Value {
    let mut container = json!({
        "name": name, "image": super::agnhost::AGNHOST, "imagePullPolicy": "IfNotPresent", "args": args,
    });
    merge(&mut container, more);
    container
}

/// A script that stays until SIGTERM.
pub const STAY: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// Puts the members of `over` over those of `base`, deep.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over,
    }
}

/// The status of a container, init containers included.
///
/// # Errors
/// Where the pod has no status of it.
pub fn container<'a>(pod: &'a Value, name: &str) -> Result<&'a Value> {
    [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ]
    .iter()
    .filter_map(|list| pod["status"][list].as_array())
    .flatten()
    .find(|status| status["name"] == name)
    .with_context(|| format!("no status of container {name}: {:#}", pod["status"]))
}

/// Whether the pod's condition `Ready` is true.
#[must_use]
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// How often the containers of the pod were restarted, together.
#[must_use]
pub fn restarts(pod: &Value) -> u64 {
    ["containerStatuses", "initContainerStatuses"]
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .filter_map(|status| status["restartCount"].as_u64())
        .sum()
}
