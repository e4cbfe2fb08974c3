//! E9: GetContainerEvents.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Bed, container, sleeper, test};
use proto::cri as v1;
use tonic::Streaming;

type Events = Streaming<v1::ContainerEventResponse>;

async fn listen(bed: &Bed) -> Result<Events> {
    let answer = bed
        .cri
        .runtime
        .clone()
        .get_container_events(v1::GetEventsRequest {})
        .await?;
    Ok(answer.into_inner())
}

async fn next(events: &mut Events) -> Result<v1::ContainerEventResponse> {
    let event = tokio::time::timeout(Duration::from_secs(10), events.message()).await;
    event.context("no event came")??.context("the stream ended")
}

#[test]
fn e9_each_change_is_one_event_with_the_pods_and_the_containers_statuses() {
    test(async |node| -> Result<()> {
        use v1::ContainerEventType as Type;
        let bed = Bed::new(node).await?;
        let mut events = listen(&bed).await?;
        let id = bed.run(&container("main", BUSYBOX, &["sh", "-c", "exit 3"])).await?;
        bed.cri.exited(&id).await?;
        bed.cri.remove(&id).await?;
        bed.cri.stop_pod(&bed.pod).await?;
        bed.cri.remove_pod(&bed.pod).await?;
        for (wanted, of) in [
            (Type::ContainerCreatedEvent, &id),
            (Type::ContainerStartedEvent, &id),
            (Type::ContainerStoppedEvent, &id),
            (Type::ContainerDeletedEvent, &id),
            (Type::ContainerStoppedEvent, &bed.pod),
            (Type::ContainerDeletedEvent, &bed.pod),
        ] {
            let event = next(&mut events).await?;
            ensure!(
                event.container_event_type() == wanted && event.container_id == *of && event.created_at > 0,
                "{wanted:?} of {of}: {event:?}"
            );
            let status = event.pod_sandbox_status.as_ref().context("no status of the pod")?;
            ensure!(
                status.id == bed.pod && status.metadata == bed.config.metadata,
                "{status:?}"
            );
            if wanted == Type::ContainerStoppedEvent && *of == id {
                let told = event
                    .containers_statuses
                    .first()
                    .context("no status of the container")?;
                let asked = bed.cri.pod_status_whole(&bed.pod).await;
                ensure!(told.exit_code == 3 && told.finished_at > 0, "{told:?} {asked:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn e9_a_reader_that_reads_nothing_holds_nobody_up() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let _stalled = listen(&bed).await?;
        let mut reading = listen(&bed).await?;
        let begun = Instant::now();
        for number in 0..30 {
            let id = bed.create(&sleeper(&format!("c{number}"))).await?;
            bed.cri.remove(&id).await?;
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        for _ in 0..90 {
            next(&mut reading).await?;
        }
        Ok(())
    });
}

#[test]
fn e9_a_server_that_stops_ends_the_streams() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut events = listen(&bed).await?;
        let begun = Instant::now();
        node.stop_daemon().await?;
        ensure!(
            begun.elapsed() < Duration::from_secs(8),
            "it took {:?} to stop",
            begun.elapsed()
        );
        ensure!(
            !matches!(events.message().await, Ok(Some(_))),
            "an event of a server that is gone"
        );
        node.start_daemon().await
    });
}
