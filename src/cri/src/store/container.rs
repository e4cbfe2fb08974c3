//! A container in memory: its record, its status, its monitor and the order of its verbs.
//!
//! ```text
//! Creating ──▶ Created ──StartContainer──▶ Running ──▶ Exited
//!                 └───── start failed, killed, monitor lost ──▶┘
//! ```
//!
//! Created → Running is made by `container/start.rs`, every way to Exited by
//! `container/exit.rs` (from the monitor's event or exit record); nobody else changes the
//! phase. Status is a watch channel: whoever waits for the end subscribes.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use proto::cri;
use spec::ContainerId;
use spec::runtime::Process;
use tokio::sync::watch;

use super::db::{Db, Row, Table};
use super::records::{ContainerRecord, Status, encode_status};
use crate::container::stats::Sample;
use crate::container::stop::Stopping;
use crate::encoded::Listed;
use crate::error::Error;
use crate::kept::Group;
use crate::monitor::Client;

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its id.
    pub(crate) id: ContainerId,
    /// What never changes.
    pub(crate) record: ContainerRecord,
    status: watch::Sender<Status>,
    /// Verbs that change the container take turns here; readers, lists and execs never look
    /// at it, and no stop waits out its grace in it.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Held from a change of the phase to the event that tells of it, so that events come in the order of the changes.
    pub(crate) news: tokio::sync::Mutex<()>,
    monitor: Mutex<Option<Client>>,
    cgroup: Mutex<Option<Arc<Group>>>,
    process: Mutex<Option<Arc<Process>>>,
    /// The stop that runs, if any.
    pub(crate) stopping: Mutex<Option<Stopping>>,
    /// Its monitor was told to discard it: that the monitor goes then is no loss.
    pub(crate) discarded: AtomicBool,
    /// The last CPU reading, for the rate.
    pub(crate) sample: Mutex<Option<Sample>>,
    /// Its part in lists.
    pub(crate) listed: Listed,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Container {
    /// From its row.
    pub(crate) fn new(id: ContainerId, record: ContainerRecord, status: Status) -> Self {
        Self {
            id,
            record,
            status: watch::Sender::new(status),
            turn: tokio::sync::Mutex::new(()),
            news: tokio::sync::Mutex::new(()),
            monitor: Mutex::default(),
            cgroup: Mutex::default(),
            process: Mutex::default(),
            stopping: Mutex::default(),
            discarded: AtomicBool::new(false),
            sample: Mutex::default(),
            listed: Listed::default(),
        }
    }

    /// The status now.
    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Looks at the status without copying it.
    pub(crate) fn with_status<T>(&self, look: impl FnOnce(&Status) -> T) -> T {
        look(&self.status.borrow())
    }

    /// The status and every change of it.
    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Changes the status in memory, then on disk. `change` says whether it changed anything.
    pub(crate) async fn update(&self, db: &Db, change: impl FnOnce(&mut Status) -> bool + Send) -> Result<bool, Error> {
        let changed = self.status.send_if_modified(|status| {
            let changed = change(status);
            if changed {
                db.changed();
            }
            changed
        });
        if changed {
            let encoded = encode_status(&*self.status.borrow())?;
            db.status(Table::Container, self.id.as_str(), encoded).await?;
        }
        Ok(changed)
    }

    /// The configuration it was made from.
    pub(crate) fn config(&self) -> Result<&cri::ContainerConfig, Error> {
        self.record.config.as_ref().ok_or_else(|| {
            Error::new(
                spec::Kind::DataLoss,
                format!("the record of container {} has no configuration", self.id),
            )
        })
    }

    /// The connection to its monitor, while there is one.
    pub(crate) fn monitor(&self) -> Result<Client, Error> {
        locked(&self.monitor)
            .clone()
            .ok_or_else(|| Error::precondition(format!("container {} has no monitor any more: it has ended", self.id)))
    }

    /// Sets or drops the connection to its monitor.
    pub(crate) fn set_monitor(&self, client: Option<Client>) {
        *locked(&self.monitor) = client;
    }

    /// Its cgroup, kept open for the statistics.
    pub(crate) fn cgroup(&self) -> Option<Arc<Group>> {
        locked(&self.cgroup).clone()
    }

    /// Keeps its cgroup open, or lets go of it.
    pub(crate) fn set_cgroup(&self, cgroup: Option<Arc<Group>>) {
        *locked(&self.cgroup) = cgroup;
    }

    /// The process of its specification, from which execs are made.
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        locked(&self.process).clone()
    }

    /// Sets the process of its specification.
    pub(crate) fn set_process(&self, process: Arc<Process>) {
        *locked(&self.process) = Some(process);
    }
}

/// The row of a container.
pub(crate) fn row(record: &ContainerRecord, status: &Status) -> Result<Row, Error> {
    Ok(Row {
        id: record.id.clone(),
        record: record.encode_to_vec(),
        status: encode_status(status)?,
    })
}

/// The key under which a container's name is reserved.
pub(crate) fn name_key(metadata: &cri::ContainerMetadata, sandbox_id: &str) -> String {
    format!("{}_{}_{}", metadata.name, sandbox_id, metadata.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_of_the_status_is_counted_before_anybody_hears_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&dir.path().join("bulkhead.db")).unwrap();
        let id = ContainerId::parse(&"a".repeat(64)).unwrap();
        let container = Container::new(id, ContainerRecord::default(), Status::creating());
        let mut watch = container.watch();
        let heard = {
            let db = db.clone();
            tokio::spawn(async move {
                watch.changed().await.unwrap();
                db.changes()
            })
        };
        assert!(!container.update(&db, |_| false).await.unwrap());
        assert_eq!(db.changes(), 0);
        assert!(
            container
                .update(&db, |status| {
                    *status = Status::creating();
                    true
                })
                .await
                .unwrap()
        );
        assert_eq!((heard.await.unwrap(), db.changes()), (1, 1));
    }
}
