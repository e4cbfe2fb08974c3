//! RemovePodSandbox: stops, removes the containers, then the pod's files, cgroup and record.
//! May be called again; an unknown pod is success. A crash in the middle is finished by
//! `restore.rs` (the record says Removing).

use std::sync::Arc;

use proto::cri::ContainerEventType;

use super::{stop, teardown};
use crate::container;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::db::Table;
use crate::store::records::SandboxPhase;
use crate::store::sandbox::{Sandbox, name_key};
use crate::{detached, events, undo};

/// Removes a pod.
pub(crate) async fn remove(rt: &Arc<Runtime>, id: &str) -> Result<(), Error> {
    let Some(sandbox) = rt.index.find_sandbox(id)? else {
        return Ok(());
    };
    let rt = Arc::clone(rt);
    detached(async move { away(&rt, &sandbox).await }).await
}

/// The work.
pub(crate) async fn away(rt: &Arc<Runtime>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    let _turn = sandbox.turn.lock().await;
    stop::down(rt, sandbox).await?;
    sandbox.update(&rt.db, |s| s.phase = SandboxPhase::Removing).await?;
    undo::failpoint("remove_pod", "removing").await?;
    for container in rt.index.containers_of(&sandbox.id) {
        container::remove::away(rt, &container).await?;
    }
    undo::failpoint("remove_pod", "containers").await?;
    teardown::files(rt, &sandbox.id).await?;
    teardown::cgroup(rt, &sandbox.record).await?;
    undo::failpoint("remove_pod", "files").await?;
    rt.db.delete(Table::Sandbox, sandbox.id.as_str()).await?;
    rt.index.remove_sandbox(&sandbox.id);
    rt.categories.give_back(sandbox.id.as_str());
    events::pod(rt, sandbox, ContainerEventType::ContainerDeletedEvent);
    if let Some(metadata) = sandbox.config()?.metadata.as_ref() {
        rt.pod_names.release(&name_key(metadata), sandbox.id.as_str());
    }
    Ok(())
}
