//! How a container's end becomes known, and the only writer of `Phase::Exited`.
//!
//! The first word wins: the monitor's event; the exit record it left behind, when it ended
//! without one reaching us; or, with neither, code 255 `Unknown` — never 0 — after what is
//! left in the cgroup was killed, for a container without a monitor cannot be governed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::cri::ContainerEventType;
use proto::monitor as wire;
use spec::{ExitReason, ExitRecord};

use crate::clock;
use crate::error::{Error, LONGEST_MESSAGE, cut};
use crate::events;
use crate::monitor::{Client, Outcome};
use crate::runtime::Runtime;
use crate::sandbox::teardown;
use crate::store::container::Container;
use crate::store::records::Phase;
use crate::subject;

fn reason(text: &str) -> ExitReason {
    match text {
        "Completed" => ExitReason::Completed,
        "OOMKilled" => ExitReason::OomKilled,
        "StartError" => ExitReason::StartError,
        "Error" => ExitReason::Error,
        _ => ExitReason::Unknown,
    }
}

/// The monitor's words as a record.
pub(crate) fn from_wire(exited: &wire::Exited) -> ExitRecord {
    ExitRecord {
        exit_code: exited.exit_code,
        signal: exited.signal,
        started_at: exited.started_at,
        finished_at: exited.finished_at,
        oom_killed: exited.oom_killed,
        reason: reason(&exited.reason),
        message: exited.message.clone(),
    }
}

/// A record of our own making.
pub(crate) fn record(code: i32, reason: ExitReason, started_at: i64, message: impl Into<String>) -> ExitRecord {
    ExitRecord {
        exit_code: code,
        signal: 0,
        started_at,
        finished_at: clock::wall().max(started_at),
        oom_killed: false,
        reason,
        message: message.into(),
    }
}

/// The record that the monitor left behind, if it did.
pub(crate) fn read(path: &Path) -> Result<Option<ExitRecord>, Error> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::at("read the exit record", path.display(), &e)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| Error::at("read the exit record", path.display(), &e))
}

/// Waits in a task for the end that `client` will tell.
pub(crate) fn watch(rt: &Arc<Runtime>, container: &Arc<Container>, client: &Client) {
    let (rt, container) = (Arc::clone(rt), Arc::clone(container));
    let mut outcome = client.outcome();
    tokio::spawn(async move {
        let end = match outcome.wait_for(|o| *o != Outcome::Alive).await {
            Ok(end) => end.clone(),
            // We end, the container does not: the next daemon finds it.
            Err(_) => return,
        };
        let record = match end {
            Outcome::Exited(exited) => {
                for warning in &exited.warnings {
                    tracing::warn!(container = %container.id, warning, "ended, but");
                }
                from_wire(&exited)
            }
            Outcome::Alive | Outcome::Lost => match lost(&rt, &container).await {
                Some(record) => record,
                None => return,
            },
        };
        if let Err(error) = settle(&rt, &container, record).await {
            tracing::warn!(container = %container.id, %error, "a container's end could not be recorded");
        }
    });
}

/// What to believe of a container whose monitor is gone. None if it is being removed, or if we
/// had it discarded: who did that says how it ended.
pub(crate) async fn lost(rt: &Arc<Runtime>, container: &Arc<Container>) -> Option<ExitRecord> {
    match read(&rt.paths.exit_record(&container.id)) {
        Ok(Some(record)) => return Some(record),
        Ok(None) => {}
        Err(error) => tracing::warn!(container = %container.id, %error, "unreadable exit record"),
    }
    let (done, started_at) = container.with_status(|s| {
        let started = if let Phase::Running { started_at } = s.phase {
            started_at
        } else {
            0
        };
        (s.removing || s.exit().is_some(), started)
    });
    if done || container.discarded.load(Ordering::SeqCst) {
        return None;
    }
    tracing::warn!(container = %container.id, "the monitor is lost without an exit record; killing what is left");
    rt.counters.monitor_lost();
    if let Err(error) = teardown::remove_cgroup(rt, &container.record.cgroup).await {
        tracing::warn!(container = %container.id, %error, "the cgroup of a lost container stays for now");
    }
    Some(record(
        255,
        ExitReason::Unknown,
        started_at,
        "the container's monitor was lost; its exit code is not known",
    ))
}

/// Makes the end known, once.
pub(crate) async fn settle(rt: &Arc<Runtime>, container: &Arc<Container>, mut record: ExitRecord) -> Result<(), Error> {
    // Whoever tells of it first, a monitor or we.
    record.message = cut(&record.message, LONGEST_MESSAGE).into_owned();
    let code = record.exit_code;
    let why = record.reason.as_str();
    let ran = record.started_at > 0;
    let mut unseen_start = false;
    let _news = container.news.lock().await;
    let first = container
        .update(&rt.db, |status| {
            let first = status.exit().is_none();
            if first {
                unseen_start = ran && status.phase == Phase::Created;
                status.phase = Phase::Exited(record);
                status.stop_by = None;
            }
            first
        })
        .await?;
    if first {
        container.set_monitor(None);
        container.set_cgroup(None);
        rt.counters.ended(why);
        let subject = subject::of_container(rt, container);
        tracing::info!(
            pod = subject.pod,
            pod_id = subject.pod_id,
            container = subject.container,
            container_id = subject.container_id,
            code,
            reason = why,
            "container ended"
        );
        if unseen_start {
            events::container(rt, container, ContainerEventType::ContainerStartedEvent);
        }
        events::container(rt, container, ContainerEventType::ContainerStoppedEvent);
    }
    Ok(())
}

/// Waits until the container has ended, and its event is out.
pub(crate) async fn ended(container: &Container) {
    // The sender lives in the container that we hold: it cannot be gone.
    drop(container.watch().wait_for(|s| s.exit().is_some()).await);
    drop(container.news.lock().await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_or_missing_or_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        assert_eq!(read(&path).unwrap(), None);
        let written = record(137, ExitReason::OomKilled, 5, "x");
        std::fs::write(&path, serde_json::to_vec(&written).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), Some(written));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), spec::Kind::DataLoss);
    }

    #[test]
    fn an_unknown_reason_of_a_newer_monitor_is_unknown() {
        assert_eq!(reason("OOMKilled"), ExitReason::OomKilled);
        assert_eq!(reason("Vanished"), ExitReason::Unknown);
    }
}
