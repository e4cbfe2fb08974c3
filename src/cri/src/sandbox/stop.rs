//! StopPodSandbox: containers first (a preStop hook may need the network), then the shared
//! init, CNI DEL, namespaces. The pod is NOTREADY before anything else, so that no container
//! is added meanwhile.
//!
//! May be called again at any time and finishes what is left; an unknown pod is success.

use std::sync::Arc;

use proto::cri::ContainerEventType;

use super::{init, teardown};
use crate::container;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::records::SandboxPhase;
use crate::store::sandbox::Sandbox;
use crate::{detached, events, undo};

/// Stops a pod.
pub(crate) async fn stop(rt: &Arc<Runtime>, id: &str) -> Result<(), Error> {
    let Some(sandbox) = rt.index.find_sandbox(id)? else {
        return Ok(());
    };
    let rt = Arc::clone(rt);
    detached(async move {
        let _turn = sandbox.turn.lock().await;
        down(&rt, &sandbox).await
    })
    .await
}

/// The work; the caller holds the pod's turn.
pub(crate) async fn down(rt: &Arc<Runtime>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    if sandbox.phase() == SandboxPhase::Ready {
        sandbox.update(&rt.db, |s| s.phase = SandboxPhase::NotReady).await?;
    }
    sandbox.unmeasured();
    undo::failpoint("stop_pod", "not_ready").await?;
    let stops = rt
        .index
        .containers_of(&sandbox.id)
        .into_iter()
        .map(|c| container::stop::end(rt, c));
    for stopped in futures_util::future::join_all(stops).await {
        stopped?;
    }
    undo::failpoint("stop_pod", "containers").await?;
    if sandbox.status().network_down {
        return Ok(());
    }
    init::remove(rt, &sandbox.id, &sandbox.record).await?;
    teardown::network(rt, &sandbox.id, &sandbox.record).await?;
    undo::failpoint("stop_pod", "network").await?;
    sandbox.update(&rt.db, |s| s.network_down = true).await?;
    events::pod(rt, sandbox, ContainerEventType::ContainerStoppedEvent);
    Ok(())
}
