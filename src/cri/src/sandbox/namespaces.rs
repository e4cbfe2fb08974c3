//! A pod's namespaces: made and pinned as files by the spawner, let go by unmounting.

use std::path::Path;

use config::Paths;
use proto::monitor::Pin;
use spec::SandboxId;

use super::plan::SandboxPlan;
use super::{files, userns};
use crate::error::Error;
use crate::store::records::SandboxRecord;

/// What the spawner is asked to make. None if the pod uses the host's for all.
pub(crate) fn order(plan: &SandboxPlan) -> Option<Pin> {
    let record = &plan.record;
    let files = [&record.netns, &record.ipcns, &record.utsns, &record.userns];
    let none = files.iter().all(|file| file.is_empty());
    let shift = record.shift();
    (!none).then(|| Pin {
        user: record.userns.clone(),
        uid_mappings: userns::mapping(shift.uid, shift),
        gid_mappings: userns::mapping(shift.gid, shift),
        network: record.netns.clone(),
        ipc: record.ipcns.clone(),
        uts: record.utsns.clone(),
        hostname: plan.uts_hostname.clone().unwrap_or_default(),
        sysctls: plan.sysctls.clone().into_iter().collect(),
        loopback_up: !record.netns.is_empty(),
    })
}

/// Lets go of the namespaces. Safe on what is half made and on what is gone.
pub(crate) fn unpin(paths: &Paths, id: &SandboxId, record: &SandboxRecord) -> Result<(), Error> {
    unpin_local(paths, id, record)?;
    unpin_network(record)
}

/// All but the network's, which plugins need for DEL; and `/dev/shm`, which lies beside them.
pub(crate) fn unpin_local(paths: &Paths, id: &SandboxId, record: &SandboxRecord) -> Result<(), Error> {
    let paths_of = [&record.ipcns, &record.utsns, &record.userns];
    paths_of.into_iter().try_for_each(|path| let_go(path))?;
    files::unmount(&paths.shm(id))?;
    files::remove_tree(&paths.pod_namespaces(id))
}

/// The network's alone.
pub(crate) fn unpin_network(record: &SandboxRecord) -> Result<(), Error> {
    let_go(&record.netns)
}

fn let_go(path: &str) -> Result<(), Error> {
    if path.is_empty() {
        return Ok(());
    }
    files::unmount(Path::new(path))?;
    files::unlink(Path::new(path))
}
