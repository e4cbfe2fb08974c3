//! A pod in memory: its record, its status and the order of its verbs.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use prost::Message;
use proto::cri;
use spec::SandboxId;

use super::db::{Db, Row, Table};
use super::records::{SandboxPhase, SandboxRecord, SandboxStatus, encode_status};
use crate::container::stats::Sample;
use crate::encoded::Listed;
use crate::error::Error;
use crate::kept::Group;
use crate::sandbox::traffic::Links;

/// A pod.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Its id.
    pub(crate) id: SandboxId,
    /// What never changes.
    pub(crate) record: SandboxRecord,
    status: RwLock<SandboxStatus>,
    /// Verbs that change the pod take turns here; readers and lists never look at it. It is
    /// a queue, not a guard of data: the only lock of this crate that is held across waits.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Its part in lists.
    pub(crate) listed: Listed,
    /// The last CPU reading, for the rate.
    pub(crate) sample: Mutex<Option<Sample>>,
    /// Its cgroup, kept open for the statistics while it is ready.
    pub(crate) group: Mutex<Option<Arc<Group>>>,
    /// The way to its traffic.
    pub(crate) links: Links,
}

impl Sandbox {
    /// From its row.
    pub(crate) fn new(id: SandboxId, record: SandboxRecord, status: SandboxStatus) -> Self {
        Self {
            id,
            record,
            status: RwLock::new(status),
            turn: tokio::sync::Mutex::new(()),
            listed: Listed::default(),
            sample: Mutex::default(),
            group: Mutex::default(),
            links: Links::default(),
        }
    }

    /// The status now.
    pub(crate) fn status(&self) -> SandboxStatus {
        self.status.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it is in its life.
    pub(crate) fn phase(&self) -> SandboxPhase {
        self.status.read().unwrap_or_else(PoisonError::into_inner).phase
    }

    /// Changes the status in memory, then on disk.
    pub(crate) async fn update(&self, db: &Db, change: impl FnOnce(&mut SandboxStatus) + Send) -> Result<(), Error> {
        let encoded = {
            let mut status = self.status.write().unwrap_or_else(PoisonError::into_inner);
            change(&mut status);
            db.changed();
            encode_status(&*status)?
        };
        db.status(Table::Sandbox, self.id.as_str(), encoded).await
    }

    /// The request it was made from.
    pub(crate) fn request(&self) -> Result<&cri::RunPodSandboxRequest, Error> {
        self.record.request.as_ref().ok_or_else(|| damaged(&self.id))
    }

    /// The configuration it was made from.
    pub(crate) fn config(&self) -> Result<&cri::PodSandboxConfig, Error> {
        self.request()?.config.as_ref().ok_or_else(|| damaged(&self.id))
    }

    /// Its namespace modes.
    pub(crate) fn namespace_options(&self) -> Option<&cri::NamespaceOption> {
        self.config()
            .ok()?
            .linux
            .as_ref()?
            .security_context
            .as_ref()?
            .namespace_options
            .as_ref()
    }

    /// Closes what is kept open for its statistics, for good.
    pub(crate) fn unmeasured(&self) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.links.close();
    }

    /// It uses the host's network.
    pub(crate) fn host_network(&self) -> bool {
        self.record.netns.is_empty()
    }

    /// READY or not, as CRI says it.
    pub(crate) fn state(&self) -> cri::PodSandboxState {
        match self.phase() {
            SandboxPhase::Ready => cri::PodSandboxState::SandboxReady,
            _ => cri::PodSandboxState::SandboxNotready,
        }
    }
}

fn damaged(id: &SandboxId) -> Error {
    Error::new(
        spec::Kind::DataLoss,
        format!("the record of pod {id} has no configuration"),
    )
}

/// The row of a pod.
pub(crate) fn row(record: &SandboxRecord, status: &SandboxStatus) -> Result<Row, Error> {
    Ok(Row {
        id: record.id.clone(),
        record: record.encode_to_vec(),
        status: encode_status(status)?,
    })
}

/// The key under which a pod's name is reserved.
pub(crate) fn name_key(metadata: &cri::PodSandboxMetadata) -> String {
    format!(
        "{}_{}_{}_{}",
        metadata.name, metadata.namespace, metadata.uid, metadata.attempt
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_of_the_status_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&dir.path().join("bulkhead.db")).unwrap();
        let status = SandboxStatus {
            phase: SandboxPhase::Ready,
            network_down: false,
            resized: None,
        };
        let id = SandboxId::parse(&"a".repeat(64)).unwrap();
        let sandbox = Sandbox::new(id, SandboxRecord::default(), status);
        sandbox.update(&db, |status| status.network_down = true).await.unwrap();
        assert_eq!(db.changes(), 1);
    }
}
