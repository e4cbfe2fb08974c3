//! ListContainers: from memory, filters ANDed; an id nobody has gives an empty list.

use std::sync::Arc;

use proto::cri;

use crate::encoded::{Answer, Encoded};
use crate::error::Error;
use crate::runtime::Runtime;
use crate::sandbox::list::selects;
use crate::store::container::Container;

fn matches(filter: &cri::ContainerFilter, container: &Container, config: &cri::ContainerConfig) -> bool {
    container.id.as_str().starts_with(&filter.id)
        && container.record.sandbox_id.starts_with(&filter.pod_sandbox_id)
        && filter
            .state
            .as_ref()
            .is_none_or(|s| s.state() == container.with_status(crate::store::records::Status::state))
        && selects(&filter.label_selector, &config.labels)
}

/// The image as lists and status show it.
pub(crate) fn image_spec(container: &Container, config: &cri::ContainerConfig) -> cri::ImageSpec {
    let asked = config.image.clone().unwrap_or_default();
    cri::ImageSpec {
        image: container.record.image_name.clone(),
        user_specified_image: asked.user_specified_image,
        annotations: asked.annotations,
        runtime_handler: asked.runtime_handler,
        ..Default::default()
    }
}

/// Container.state.
pub(crate) const STATE_FIELD: u32 = 6;

fn state(container: &Container) -> i32 {
    container.with_status(crate::store::records::Status::state).into()
}

fn chosen(rt: &Runtime, filter: Option<&cri::ContainerFilter>) -> Result<Vec<Arc<Container>>, Error> {
    let mut chosen = rt.index.containers();
    if let Some(filter) = filter {
        let mut failed = Ok(());
        chosen.retain(|container| match container.config() {
            Ok(config) => matches(filter, container, config),
            Err(error) => {
                failed = Err(error);
                false
            }
        });
        failed?;
    }
    Ok(chosen)
}

fn item(container: &Container, state: i32) -> Result<cri::Container, Error> {
    let (config, record) = (container.config()?, &container.record);
    Ok(cri::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox_id.clone(),
        metadata: config.metadata.clone(),
        image: Some(image_spec(container, config)),
        image_ref: record.image_ref.clone(),
        state,
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: format!("sha256:{}", record.image_id),
    })
}

/// Answers ListContainers.
pub(crate) fn list(
    rt: &Arc<Runtime>,
    request: &cri::ListContainersRequest,
) -> Result<cri::ListContainersResponse, Error> {
    let chosen = chosen(rt, request.filter.as_ref())?;
    let containers = chosen.iter().map(|container| item(container, state(container)));
    Ok(cri::ListContainersResponse {
        containers: containers.collect::<Result<_, _>>()?,
    })
}

/// The same, from bytes that each container keeps.
pub(crate) fn encoded(rt: &Runtime, request: &cri::ListContainersRequest) -> Result<Answer, Error> {
    rt.whole_lists.containers.answer(rt, request.filter.as_ref(), |filter| {
        let mut answer = Encoded::new();
        for container in chosen(rt, filter)? {
            let bytes = container.listed.get(|| item(&container, 0))?;
            answer.push(bytes, STATE_FIELD, state(&container));
        }
        answer.finish()
    })
}
