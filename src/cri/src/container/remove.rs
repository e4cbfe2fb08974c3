//! RemoveContainer: ends it if it runs, then takes away its layer, files, record and name.
//! May be called again; an unknown container is success. The log file is the kubelet's.

use std::sync::Arc;

use proto::cri::ContainerEventType;

use super::stop;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::sandbox::files::remove_tree;
use crate::sandbox::teardown;
use crate::store::container::{Container, name_key};
use crate::store::db::Table;
use crate::{blocking, detached, events, undo};

/// Removes a container.
pub(crate) async fn remove(rt: &Arc<Runtime>, id: &str) -> Result<(), Error> {
    let Some(container) = rt.index.find_container(id)? else {
        return Ok(());
    };
    let rt = Arc::clone(rt);
    detached(async move { away(&rt, &container).await }).await
}

/// The work.
pub(crate) async fn away(rt: &Arc<Runtime>, container: &Arc<Container>) -> Result<(), Error> {
    let _turn = container.turn.lock().await;
    container
        .update(&rt.db, |s| !std::mem::replace(&mut s.removing, true))
        .await?;
    undo::failpoint("remove_container", "removing").await?;
    stop::end(rt, Arc::clone(container)).await?;
    undo::failpoint("remove_container", "stopped").await?;
    clean(rt, container).await?;
    rt.db.delete(Table::Container, container.id.as_str()).await?;
    undo::failpoint("remove_container", "forgotten").await?;
    rt.index.remove_container(&container.id);
    events::container(rt, container, ContainerEventType::ContainerDeletedEvent);
    if let Some(metadata) = container.config()?.metadata.as_ref() {
        rt.container_names
            .release(&name_key(metadata, &container.record.sandbox_id), container.id.as_str());
    }
    Ok(())
}

/// Takes away what an ended container leaves. Safe on what is gone.
pub(crate) async fn clean(rt: &Arc<Runtime>, container: &Arc<Container>) -> Result<(), Error> {
    let id = &container.id;
    // The monitor removes the cgroup; it may have died before.
    teardown::remove_cgroup(rt, &container.record.cgroup).await?;
    let dir = rt.paths.container(id);
    let snapshot = async {
        rt.images
            .snapshot_remove(id)
            .await
            .map_err(|e| Error::at("remove the writable layer of", id, &e))
    };
    let files = blocking(move || remove_tree(&dir));
    let (snapshot, files) = tokio::join!(snapshot, files);
    snapshot?;
    files
}
