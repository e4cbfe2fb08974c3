//! ContainerStatus: the fixed record, the last known run state and the exit, in the words the kubelet reads (E1, E2).

use std::collections::HashMap;
use std::sync::Arc;

use proto::cri;
use serde_json::json;

use super::image_volumes;
use super::list::image_spec;
use super::plan::{self, process, resources};
use super::update;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::container::Container;
use crate::store::records::Phase;

/// The status message of a container.
pub(crate) fn message(container: &Container) -> Result<cri::ContainerStatus, Error> {
    let (config, record) = (container.config()?, &container.record);
    let status = container.status();
    let (mut started_at, mut finished_at, mut exit_code) = (0, 0, 0);
    let (mut reason, mut text) = (String::new(), String::new());
    match &status.phase {
        Phase::Creating | Phase::Created => {}
        Phase::Running { started_at: at } => started_at = *at,
        Phase::Exited(exit) => {
            started_at = exit.started_at;
            finished_at = exit.finished_at;
            exit_code = exit.exit_code;
            exit.reason.as_str().clone_into(&mut reason);
            exit.message.clone_into(&mut text);
        }
    }
    let user = cri::LinuxContainerUser {
        uid: i64::from(record.uid),
        gid: i64::from(record.gid),
        supplemental_groups: record.groups.iter().map(|g| i64::from(*g)).collect(),
    };
    let resources = update::effective(container)?;
    Ok(cri::ContainerStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: status.state().into(),
        created_at: record.created_at,
        started_at,
        finished_at,
        exit_code,
        image: Some(image_spec(container, config)),
        image_ref: record.image_ref.clone(),
        reason,
        message: text,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: image_volumes::echo(config, record),
        log_path: record.log_path.clone(),
        resources: resources.map(|linux| cri::ContainerResources {
            linux: Some(linux),
            windows: None,
        }),
        image_id: format!("sha256:{}", record.image_id),
        user: Some(cri::ContainerUser { linux: Some(user) }),
        stop_signal: process::to_cri(record.stop_signal).into(),
    })
}

/// Answers ContainerStatus.
pub(crate) async fn status(
    rt: &Arc<Runtime>,
    request: &cri::ContainerStatusRequest,
) -> Result<cri::ContainerStatusResponse, Error> {
    let container = rt.index.container(&request.container_id)?;
    let mut info = HashMap::new();
    if request.verbose {
        info.insert("info".to_owned(), verbose(rt, &container).await?);
    }
    Ok(cri::ContainerStatusResponse {
        status: Some(message(&container)?),
        info,
    })
}

/// The specification as it would be, had the container been made with the resources that it has now.
fn resize(spec: &mut serde_json::Value, now: &cri::LinuxContainerResources) -> Result<(), Error> {
    let now = serde_json::to_value(resources::resources(now)?).map_err(|e| Error::at("encode", "the resources", &e))?;
    let (Some(linux), serde_json::Value::Object(now)) = (spec.get_mut("linux"), now) else {
        return Ok(());
    };
    // Device rules and the like, which no resize changes, stay.
    for (key, value) in now {
        linux["resources"][key] = value;
    }
    Ok(())
}

/// What tools read: `.info.pid`, `.info.runtimeSpec`.
async fn verbose(rt: &Arc<Runtime>, container: &Container) -> Result<String, Error> {
    let text = tokio::fs::read(rt.paths.config_json(&container.id))
        .await
        .unwrap_or_default();
    let mut spec: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    if let Some(resized) = container.with_status(|s| s.resized.clone()) {
        resize(&mut spec, &resized.0)?;
    }
    let status = container.status();
    let pid = if status.exit().is_some() {
        0
    } else {
        container.record.pid
    };
    let context = plan::context(container.config()?);
    Ok(json!({
        "sandboxID": container.record.sandbox_id,
        "pid": pid,
        "removing": status.removing,
        "privileged": context.privileged,
        "cgroup": container.record.cgroup,
        "snapshotKey": container.record.id,
        "snapshotter": "overlay",
        "runtimeSpec": spec,
    })
    .to_string())
}
