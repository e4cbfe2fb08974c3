//! Takes down what a pod consists of. Each part may be called again and on what is gone:
//! they are the undo of RunPodSandbox, the work of Stop and Remove, and the cleaning after a
//! crash.

use std::sync::Arc;
use std::time::Duration;

use spec::SandboxId;

use super::{files, namespaces, network};
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::db::Table;
use crate::store::records::SandboxRecord;
use crate::{blocking, scope};

/// CNI DEL, then the network namespace, in this order: plugins find the interfaces inside. At the same time what no
/// container is left to use: the other namespaces and `/dev/shm`; each unmount waits for RCU.
pub(crate) async fn network(rt: &Arc<Runtime>, id: &SandboxId, record: &SandboxRecord) -> Result<(), Error> {
    let network = async {
        network::delete(rt, record).await?;
        let record = record.clone();
        blocking(move || namespaces::unpin_network(&record)).await
    };
    let (paths, id, of) = (rt.paths.clone(), id.clone(), record.clone());
    let local = blocking(move || namespaces::unpin_local(&paths, &id, &of));
    let (network, local) = tokio::join!(network, local);
    network.and(local)
}

/// The namespaces alone, with `/dev/shm`.
pub(crate) async fn unpin(rt: &Arc<Runtime>, id: &SandboxId, record: &SandboxRecord) -> Result<(), Error> {
    let (paths, id, record) = (rt.paths.clone(), id.clone(), record.clone());
    blocking(move || namespaces::unpin(&paths, &id, &record)).await
}

/// The files.
pub(crate) async fn files(rt: &Arc<Runtime>, id: &SandboxId) -> Result<(), Error> {
    let (paths, id) = (rt.paths.clone(), id.clone());
    blocking(move || files::remove(&paths, &id)).await
}

/// The pod's cgroup, if it is ours.
pub(crate) async fn cgroup(rt: &Arc<Runtime>, record: &SandboxRecord) -> Result<(), Error> {
    if record.cgroup_owned && !record.cgroup.is_empty() {
        remove_cgroup(rt, &record.cgroup).await?;
    }
    Ok(())
}

/// Kills what is in a cgroup and removes it; one that is gone is fine.
pub(crate) async fn remove_cgroup(rt: &Arc<Runtime>, path: &str) -> Result<(), Error> {
    let (own, at) = (Arc::clone(rt), path.to_owned());
    let was_there = blocking(move || {
        let path = at;
        let found = match own.cgroups.open(&path) {
            Ok(found) => found,
            Err(e) if e.kind() == spec::Kind::NotFound => return Ok(false),
            Err(e) => return Err(Error::at("open the cgroup", &path, &e)),
        };
        if found.procs().is_ok_and(|p| !p.is_empty()) {
            found
                .kill()
                .map_err(|e| Error::at("kill what is in the cgroup", &path, &e))?;
        }
        found
            .remove()
            .map_err(|e| Error::at("remove the cgroup", &path, &e))
            .map(|()| true)
    })
    .await?;
    if was_there || scope::outlives_its_cgroup(path) {
        scope::close(rt, path).await
    } else {
        Ok(())
    }
}

/// All of it, by the record alone.
pub(crate) async fn whole(rt: &Arc<Runtime>, id: &SandboxId, record: &SandboxRecord) -> Result<(), Error> {
    super::init::remove(rt, id, record).await?;
    network(rt, id, record).await?;
    files(rt, id).await?;
    cgroup(rt, record).await
}

/// Repeats `whole` with back-off until it succeeds, then forgets the pod.
pub(crate) fn later(rt: &Arc<Runtime>, id: SandboxId, record: SandboxRecord) {
    let rt = Arc::clone(rt);
    tokio::spawn(async move {
        let mut pause = Duration::from_secs(1);
        loop {
            let done = match whole(&rt, &id, &record).await {
                Ok(()) => rt.db.delete(Table::Sandbox, id.as_str()).await,
                Err(e) => Err(e),
            };
            match done {
                Ok(()) => return rt.categories.give_back(id.as_str()),
                Err(error) => tracing::warn!(pod = %id, %error, "a half-made pod cannot be taken down yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(60));
        }
    });
}
