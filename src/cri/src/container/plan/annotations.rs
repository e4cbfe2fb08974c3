//! Annotations of the specification.

use std::collections::HashMap;

use proto::cri;

use super::Input;
use crate::handler::Handler;
use crate::store::records::SandboxRecord;

/// Says to isolation that the session keyring is the monitor's, which is the daemon's.
const SHARED_KEYRING: (&str, &str) = ("io.bulkhead.keyring", "inherited");

/// What the handler lets through of the pod's and the container's annotations.
pub(crate) fn passed(
    handler: &Handler,
    config: &cri::ContainerConfig,
    sandbox: &SandboxRecord,
) -> HashMap<String, String> {
    let pod = sandbox.request.as_ref().and_then(|r| r.config.as_ref());
    let none = HashMap::new();
    let of_pod = pod.map_or(&none, |config| &config.annotations);
    handler.annotations(of_pod, &config.annotations)
}

/// Who this is, for tools that read it, and of the caller's what the handler lets through: nothing, unless the
/// administrator says so, so that nobody can switch anything by a name.
pub(super) fn all(input: &Input<'_>) -> HashMap<String, String> {
    let metadata = input.config.metadata.clone().unwrap_or_default();
    let mut all = input.handler.default_annotations.clone();
    all.extend(passed(input.handler, input.config, input.sandbox));
    let own = [
        ("io.kubernetes.cri.container-type", "container".to_owned()),
        ("io.kubernetes.cri.container-name", metadata.name),
        ("io.kubernetes.cri.sandbox-id", input.sandbox.id.clone()),
        ("io.kubernetes.cri.container-id", input.id.to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v));
    all.extend(own);
    if input.handler.no_new_keyring {
        let (name, value) = SHARED_KEYRING;
        all.insert(name.to_owned(), value.to_owned());
    }
    all
}
