//! GetContainerEvents: one event for each change of a pod or container, for whoever listens.
//!
//! | event   | pod                         | container                                  |
//! |---------|-----------------------------|--------------------------------------------|
//! | CREATED | RunPodSandbox made it       | CreateContainer made it                    |
//! | STARTED | at once after that          | its program runs                           |
//! | STOPPED | StopPodSandbox took it down | it ended, whoever or whatever ended it     |
//! | DELETED | it is forgotten             | it is forgotten                            |
//!
//! An event carries the pod's status and the statuses of its containers as they were when it was made. A container that
//! ends before anybody noticed that it started has both events, in that order.
//!
//! Nobody waits for a reader: the queue is bounded, whoever falls behind loses the oldest events, and how many were
//! lost is counted (`bulkhead_container_events_dropped_total`); the kubelet lists again from time to time
//! anyway. Without a reader nothing is made at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::{self, StreamExt as _};
use proto::cri::{self, ContainerEventType};
use tokio::sync::{broadcast, watch};

use crate::chunks::Streamed;
use crate::clock;
use crate::container;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::sandbox;
use crate::store::container::Container;
use crate::store::sandbox::Sandbox;

/// Events that a reader may be behind. A reader that reads is never so far; one that does not must not fill the memory:
/// each event carries all that its pod is labelled and annotated with.
const KEPT: usize = 512;

type Event = Arc<cri::ContainerEventResponse>;

/// The queue.
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<Event>,
    dropped: Arc<AtomicU64>,
    /// Becomes true when the daemon stops: a stream without end would hold it up.
    closed: watch::Sender<bool>,
}

impl Default for Events {
    fn default() -> Self {
        Self::new(KEPT)
    }
}

impl Events {
    fn new(kept: usize) -> Self {
        Self {
            sender: broadcast::Sender::new(kept),
            dropped: Arc::default(),
            closed: watch::Sender::new(false),
        }
    }

    /// Events that readers have lost.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Ends all streams.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    fn is_heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    fn send(&self, event: cri::ContainerEventResponse) {
        // The last reader may have gone since the look.
        drop(self.sender.send(Arc::new(event)));
    }

    /// All events from now on.
    pub(crate) fn subscribe(&self) -> Streamed<cri::ContainerEventResponse> {
        let reader = (
            self.sender.subscribe(),
            self.closed.subscribe(),
            Arc::clone(&self.dropped),
        );
        stream::unfold(reader, async |(mut queue, mut closed, dropped)| {
            loop {
                let next = tokio::select! {
                    next = queue.recv() => next,
                    _ = closed.wait_for(|closed| *closed) => return None,
                };
                match next {
                    Ok(event) => {
                        let event = Arc::unwrap_or_clone(event);
                        return Some((Ok(event), (queue, closed, dropped)));
                    }
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        dropped.fetch_add(lost, Ordering::Relaxed);
                        tracing::warn!(
                            lost,
                            "a reader of container events is too slow; it lost the oldest ones"
                        );
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }
}

/// Tells of a change of a pod.
pub(crate) fn pod(rt: &Runtime, sandbox: &Sandbox, what: ContainerEventType) {
    tell(rt, sandbox.id.as_str(), Some(sandbox), what);
}

/// Tells of a change of a container.
pub(crate) fn container(rt: &Runtime, container: &Container, what: ContainerEventType) {
    if !rt.events.is_heard() {
        return;
    }
    let pod = rt.index.sandbox(&container.record.sandbox_id).ok();
    tell(rt, container.id.as_str(), pod.as_deref(), what);
}

fn tell(rt: &Runtime, id: &str, pod: Option<&Sandbox>, what: ContainerEventType) {
    if !rt.events.is_heard() {
        return;
    }
    match event(rt, id, pod, what) {
        Ok(event) => rt.events.send(event),
        Err(error) => tracing::warn!(id, %error, "an event could not be made"),
    }
}

fn event(
    rt: &Runtime,
    id: &str,
    pod: Option<&Sandbox>,
    what: ContainerEventType,
) -> Result<cri::ContainerEventResponse, Error> {
    let containers = pod.map(|pod| rt.index.containers_of(&pod.id)).unwrap_or_default();
    Ok(cri::ContainerEventResponse {
        container_id: id.to_owned(),
        container_event_type: what.into(),
        created_at: clock::strictly_later(),
        pod_sandbox_status: pod.map(sandbox::status::message).transpose()?,
        containers_statuses: containers
            .iter()
            .map(|container| container::status::message(container))
            .collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: i64) -> cri::ContainerEventResponse {
        cri::ContainerEventResponse {
            created_at: number,
            ..Default::default()
        }
    }

    async fn next(stream: &mut Streamed<cri::ContainerEventResponse>) -> Option<i64> {
        stream.next().await.map(|event| event.unwrap().created_at)
    }

    #[tokio::test]
    async fn every_reader_sees_every_event() {
        let events = Events::new(8);
        assert!(!events.is_heard());
        let (mut one, mut two) = (events.subscribe(), events.subscribe());
        events.send(numbered(1));
        events.send(numbered(2));
        for reader in [&mut one, &mut two] {
            assert_eq!((next(reader).await, next(reader).await), (Some(1), Some(2)));
        }
        assert_eq!(events.dropped(), 0);
    }

    #[tokio::test]
    async fn a_slow_reader_loses_the_oldest_and_holds_nobody_up() {
        let events = Events::new(4);
        let (mut slow, mut quick) = (events.subscribe(), events.subscribe());
        for number in 1..=10 {
            events.send(numbered(number));
            assert_eq!(next(&mut quick).await, Some(number));
        }
        assert_eq!(next(&mut slow).await, Some(7));
        assert_eq!(events.dropped(), 6);
        assert_eq!(next(&mut slow).await, Some(8));
    }

    #[tokio::test]
    async fn the_end_of_the_daemon_ends_the_streams() {
        let events = Events::new(4);
        let mut reader = events.subscribe();
        events.close();
        assert_eq!(next(&mut reader).await, None);
        assert_eq!(next(&mut events.subscribe()).await, None);
    }
}
