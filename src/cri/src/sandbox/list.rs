//! ListPodSandbox: from memory, filters ANDed; an id nobody has gives an empty list.

use std::sync::Arc;

use proto::cri;

use crate::encoded::{Answer, Encoded};
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

/// PodSandbox.state.
pub(crate) const STATE_FIELD: u32 = 3;

fn chosen(rt: &Runtime, filter: Option<&cri::PodSandboxFilter>) -> Result<Vec<Arc<Sandbox>>, Error> {
    let mut chosen = rt.index.sandboxes();
    if let Some(filter) = filter {
        let mut failed = Ok(());
        chosen.retain(|sandbox| match sandbox.config() {
            Ok(config) => matches(filter, sandbox, config),
            Err(error) => {
                failed = Err(error);
                false
            }
        });
        failed?;
    }
    Ok(chosen)
}

fn item(sandbox: &Sandbox, state: i32) -> Result<cri::PodSandbox, Error> {
    let config = sandbox.config()?;
    Ok(cri::PodSandbox {
        id: sandbox.record.id.clone(),
        metadata: config.metadata.clone(),
        state,
        created_at: sandbox.record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.request()?.runtime_handler.clone(),
    })
}

/// Answers ListPodSandbox.
pub(crate) fn list(rt: &Runtime, request: &cri::ListPodSandboxRequest) -> Result<cri::ListPodSandboxResponse, Error> {
    let chosen = chosen(rt, request.filter.as_ref())?;
    let items = chosen.iter().map(|sandbox| item(sandbox, sandbox.state().into()));
    Ok(cri::ListPodSandboxResponse {
        items: items.collect::<Result<_, _>>()?,
    })
}

/// The same, from bytes that each pod keeps.
pub(crate) fn encoded(rt: &Runtime, request: &cri::ListPodSandboxRequest) -> Result<Answer, Error> {
    rt.whole_lists.sandboxes.answer(rt, request.filter.as_ref(), |filter| {
        let mut answer = Encoded::new();
        for sandbox in chosen(rt, filter)? {
            let bytes = sandbox.listed.get(|| item(&sandbox, 0))?;
            answer.push(bytes, STATE_FIELD, sandbox.state().into());
        }
        answer.finish()
    })
}
