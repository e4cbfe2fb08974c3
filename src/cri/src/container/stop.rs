//! StopContainer.
//!
//! One loop for each container, whoever asks: stop signal, grace, then SIGKILL to the whole
//! cgroup again and again with back-off until the monitor tells of the end. A second stop
//! joins the loop and may shorten its grace, never lengthen it. The loop outlives its
//! callers, and the promise is in the record, so that a new daemon keeps it.
//!
//! A stop signal that the kernel would drop, because the program has not installed its handler
//! yet, is sent as soon as it has (`deaf`), and once.
//!
//! A process in D state holds up its own container alone: nobody waits here with a lock.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use proto::monitor::{self as wire, request::Verb};
use tokio::sync::watch;
use tokio::time::Instant;

use super::deaf::{Teller, ear};
use super::exit;
use crate::clock;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::container::Container;
use crate::store::records::Phase;
use spec::ExitReason;

/// How long a monitor may take to send a signal.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// How often we look whether a process that could not hear its stop signal now can.
const FIRST_LISTEN: Duration = Duration::from_millis(5);
const LAST_LISTEN: Duration = Duration::from_millis(500);

/// A grace longer than this is as good as none at all.
const LONGEST_GRACE: u64 = 365 * 24 * 3600;

/// The stop loop that runs.
#[derive(Debug)]
pub(crate) struct Stopping {
    deadline: watch::Sender<Instant>,
}

/// The grace of a stop has passed: nothing is run in the container any more.
pub(crate) fn is_dying(container: &Container) -> bool {
    let stopping = container.stopping.lock().unwrap_or_else(PoisonError::into_inner);
    stopping
        .as_ref()
        .is_some_and(|s| *s.deadline.borrow() <= Instant::now())
}

/// Answers StopContainer. An unknown container, and one that does not run, is success.
pub(crate) async fn stop(rt: &Arc<Runtime>, id: &str, timeout: i64) -> Result<(), Error> {
    let Some(container) = rt.index.find_container(id)? else {
        return Ok(());
    };
    if !container.with_status(|s| s.is_running()) {
        return Ok(());
    }
    let grace = Duration::from_secs(u64::try_from(timeout).unwrap_or(0).min(LONGEST_GRACE));
    ask(rt, &container, grace);
    exit::ended(&container).await;
    Ok(())
}

/// Ends a container in whatever state it is, at once: for pods that stop and removals.
pub(crate) async fn end(rt: &Arc<Runtime>, container: Arc<Container>) -> Result<(), Error> {
    match container.status().phase {
        Phase::Exited(_) => {}
        Phase::Running { .. } => {
            ask(rt, &container, Duration::ZERO);
        }
        Phase::Creating | Phase::Created => {
            discard(&container).await;
            let never = exit::record(137, ExitReason::Error, 0, "stopped before it was started");
            exit::settle(rt, &container, never).await?;
        }
    }
    exit::ended(&container).await;
    Ok(())
}

/// Has the monitor of a container that never started kill it and end.
pub(crate) async fn discard(container: &Container) {
    container.discarded.store(true, Ordering::SeqCst);
    let Ok(monitor) = container.monitor() else { return };
    if let Err(error) = monitor.done(Verb::Discard(wire::Discard {}), KILL_DEADLINE).await {
        tracing::debug!(container = %container.id, %error, "Discard was not answered");
    }
}

/// Starts the loop, or shortens the grace of the one that runs.
pub(crate) fn ask(rt: &Arc<Runtime>, container: &Arc<Container>, grace: Duration) {
    let wanted = Instant::now() + grace;
    let mut stopping = container.stopping.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = &*stopping {
        running.deadline.send_if_modified(|deadline| {
            let sooner = wanted < *deadline;
            if sooner {
                *deadline = wanted;
            }
            sooner
        });
        return;
    }
    let (deadline, changes) = watch::channel(wanted);
    *stopping = Some(Stopping { deadline });
    drop(stopping);
    let (rt, container) = (Arc::clone(rt), Arc::clone(container));
    tokio::spawn(async move {
        let by = clock::wall().saturating_add(i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX));
        if let Err(error) = container
            .update(&rt.db, |s| s.is_running() && s.stop_by.replace(by).is_none())
            .await
        {
            tracing::warn!(container = %container.id, %error, "a promised stop could not be recorded");
        }
        tokio::select! {
            () = exit::ended(&container) => {}
            () = kill(&rt, &container, changes, grace) => {}
        }
        *container.stopping.lock().unwrap_or_else(PoisonError::into_inner) = None;
    });
}

async fn signal(container: &Container, signal: i32, all: bool) {
    let Ok(monitor) = container.monitor() else { return };
    let verb = Verb::Kill(wire::Kill { signal, all });
    if let Err(error) = monitor.done(verb, KILL_DEADLINE).await {
        tracing::debug!(container = %container.id, signal, %error, "the signal was not sent");
    }
}

/// A frozen process hears nothing: its grace would pass in silence. (SIGKILL thaws by itself.)
fn thaw(rt: &Runtime, container: &Container) {
    let opened = rt.cgroups.open(&container.record.cgroup);
    if let Err(error) = opened.and_then(|cgroup| cgroup.thaw()) {
        tracing::warn!(container = %container.id, %error, "a frozen container could not be resumed for its stop");
    }
}

/// Never ends by itself: the caller stops waiting for it when the container has ended.
async fn kill(rt: &Runtime, container: &Container, mut deadline: watch::Receiver<Instant>, grace: Duration) {
    if !grace.is_zero() {
        thaw(rt, container);
        let mut teller = Teller::default();
        let mut pause = FIRST_LISTEN;
        loop {
            if teller.look(ear(container.record.pid, container.record.stop_signal)) {
                signal(container, container.record.stop_signal, false).await;
            }
            let until = *deadline.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(until) => break,
                changed = deadline.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(pause), if !teller.heard() => pause = (pause * 2).min(LAST_LISTEN),
            }
        }
    }
    let mut pause = Duration::from_millis(100);
    loop {
        signal(container, 9, true).await;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}
