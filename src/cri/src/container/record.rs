//! The lasting record of a new container.

use proto::cri;
use spec::ContainerId;

use crate::clock;
use crate::error::Error;
use crate::runtime::{CreateRequest, Runtime};
use crate::sandbox::plan::check_log_directory;
use crate::store::records::ContainerRecord;
use crate::store::sandbox::Sandbox;

/// Where the pod's logs are: as the request for the container says, else as that for the pod did. A kubelet whose
/// directory of logs was changed looks for a new container's in the new one.
pub(super) fn log_directory(sandbox: &Sandbox, said: Option<&cri::PodSandboxConfig>) -> Result<String, Error> {
    let said = said.map(|pod| pod.log_directory.as_str()).filter(|it| !it.is_empty());
    let directory = said.unwrap_or(&sandbox.config()?.log_directory);
    check_log_directory(directory)?;
    Ok(directory.trim_end_matches('/').to_owned())
}

/// The log file, or nothing.
fn log_path(directory: &str, config: &cri::ContainerConfig) -> Result<String, Error> {
    if directory.is_empty() || config.log_path.is_empty() {
        return Ok(String::new());
    }
    if config.log_path.starts_with('/') || config.log_path.split('/').any(|c| c == "..") {
        return Err(Error::invalid(format!(
            "log_path {:?} is not a clean path below the pod's log_directory",
            config.log_path
        )));
    }
    Ok(format!("{directory}/{}", config.log_path))
}

/// What is written down before anything is made.
pub(super) fn record(
    rt: &Runtime,
    id: &ContainerId,
    sandbox: &Sandbox,
    request: &CreateRequest,
    image: &image::Image,
) -> Result<ContainerRecord, Error> {
    let config = &request.config;
    let asked = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
    let by_user = config
        .image
        .as_ref()
        .map(|i| i.user_specified_image.clone())
        .unwrap_or_default();
    let name = image
        .repo_tags
        .iter()
        .find(|t| **t == by_user || **t == asked)
        .or_else(|| image.repo_tags.first());
    Ok(ContainerRecord {
        id: id.to_string(),
        sandbox_id: sandbox.id.to_string(),
        config: Some(config.clone()),
        created_at: clock::strictly_later(),
        image_id: image.id.to_string(),
        image_ref: image
            .repo_digests
            .first()
            .cloned()
            .unwrap_or_else(|| image.id.with_algorithm()),
        image_name: name.cloned().unwrap_or(asked),
        cgroup: rt.config.container_cgroup(&sandbox.record.cgroup, id.as_str()),
        log_path: log_path(&request.log_directory, config)?,
        boot_id: rt.boot_id.clone(),
        ..ContainerRecord::default()
    })
}
