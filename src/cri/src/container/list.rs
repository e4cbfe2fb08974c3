//! ListContainers: from memory, filters ANDed; an id nobody has gives an empty list.

use std::sync::Arc;

use proto::cri;

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
        ..Default::default()
    }
}

/// Answers ListContainers.
pub(crate) fn list(
    rt: &Arc<Runtime>,
    request: &cri::ListContainersRequest,
) -> Result<cri::ListContainersResponse, Error> {
    let mut containers = Vec::new();
    for container in rt.index.containers() {
        let config = container.config()?;
        if request.filter.as_ref().is_some_and(|f| !matches(f, &container, config)) {
            continue;
        }
        let record = &container.record;
        containers.push(cri::Container {
            id: record.id.clone(),
            pod_sandbox_id: record.sandbox_id.clone(),
            metadata: config.metadata.clone(),
            image: Some(image_spec(&container, config)),
            image_ref: record.image_ref.clone(),
            state: container.with_status(crate::store::records::Status::state).into(),
            created_at: record.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            image_id: format!("sha256:{}", record.image_id),
        });
    }
    Ok(cri::ListContainersResponse { containers })
}
