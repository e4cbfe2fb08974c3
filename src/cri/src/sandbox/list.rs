//! ListPodSandbox: from memory, filters ANDed; an id nobody has gives an empty list.

use proto::cri;

use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::sandbox::Sandbox;

/// All of `selector` is among `labels`.
pub(crate) fn selects<S: std::hash::BuildHasher>(
    selector: &std::collections::HashMap<String, String, S>,
    labels: &std::collections::HashMap<String, String, S>,
) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn matches(filter: &cri::PodSandboxFilter, sandbox: &Sandbox, config: &cri::PodSandboxConfig) -> bool {
    sandbox.id.as_str().starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|s| s.state() == sandbox.state())
        && selects(&filter.label_selector, &config.labels)
}

/// Answers ListPodSandbox.
pub(crate) fn list(rt: &Runtime, request: &cri::ListPodSandboxRequest) -> Result<cri::ListPodSandboxResponse, Error> {
    let mut items = Vec::new();
    for sandbox in rt.index.sandboxes() {
        let config = sandbox.config()?;
        if request.filter.as_ref().is_some_and(|f| !matches(f, &sandbox, config)) {
            continue;
        }
        items.push(cri::PodSandbox {
            id: sandbox.record.id.clone(),
            metadata: config.metadata.clone(),
            state: sandbox.state().into(),
            created_at: sandbox.record.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: sandbox.request()?.runtime_handler.clone(),
        });
    }
    Ok(cri::ListPodSandboxResponse { items })
}
