//! StartContainer: the monitor lets the waiting process go on to execve.
//!
//! A start that fails leaves the container EXITED with code 128, reason StartError, and
//! the error as its message, as the kubelet shows it.

use std::sync::Arc;
use std::time::Duration;

use proto::cri::ContainerEventType;
use proto::monitor::{self as wire, reply, request::Verb};
use spec::{ExitReason, Kind};

use super::exit;
use crate::error::Error;
use crate::monitor::client::unexpected;
use crate::runtime::Runtime;
use crate::store::container::Container;
use crate::store::records::{Phase, SandboxPhase};
use crate::{detached, events, undo};

/// How long the way from Start to execve may take.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Starts a container.
pub(crate) async fn start(rt: &Arc<Runtime>, id: &str) -> Result<(), Error> {
    let container = rt.index.container(id)?;
    let rt = Arc::clone(rt);
    detached(async move { go(&rt, &container).await }).await
}

async fn go(rt: &Arc<Runtime>, container: &Arc<Container>) -> Result<(), Error> {
    let _turn = container.turn.lock().await;
    let status = container.status();
    match status.phase {
        _ if status.removing => {
            return Err(Error::precondition(format!(
                "container {} is being removed",
                container.id
            )));
        }
        Phase::Creating | Phase::Created => {}
        Phase::Running { .. } => return Err(Error::precondition(format!("container {} runs already", container.id))),
        Phase::Exited(_) => {
            return Err(Error::precondition(format!(
                "container {} has ended; make a new one",
                container.id
            )));
        }
    }
    let sandbox = rt.index.sandbox(&container.record.sandbox_id)?;
    if sandbox.phase() != SandboxPhase::Ready {
        return Err(Error::precondition(format!("pod {} is not ready", sandbox.id)));
    }
    undo::failpoint("start_container", "before").await?;
    let started = match container
        .monitor()?
        .call(Verb::Start(wire::Start {}), vec![], START_DEADLINE)
        .await
    {
        Ok(answer) => match answer.result {
            reply::Result::Started(started) => {
                for warning in &started.warnings {
                    tracing::warn!(container = %container.id, warning, "started, but");
                }
                Ok(started.started_at)
            }
            other => Err(unexpected("Started", &other)),
        },
        Err(error) => Err(error),
    };
    undo::failpoint("start_container", "started").await?;
    match started {
        Ok(started_at) => {
            // A program that ended at once may have been settled already.
            let run = |status: &mut crate::store::records::Status| {
                let waits = matches!(status.phase, Phase::Created);
                if waits {
                    status.phase = Phase::Running { started_at };
                }
                waits
            };
            let _news = container.news.lock().await;
            if container.update(&rt.db, run).await? {
                events::container(rt, container, ContainerEventType::ContainerStartedEvent);
            }
            Ok(())
        }
        Err(error) => {
            let error = program_fault(error).during("start", format!("container {}", container.id));
            let failed = exit::record(128, ExitReason::StartError, 0, error.to_string());
            exit::settle(rt, container, failed).await?;
            Err(error)
        }
    }
}

/// A missing program is the caller's mistake about the image. NotFound would tell the
/// kubelet that the container is gone.
pub(crate) fn program_fault(error: Error) -> Error {
    match error.kind() {
        Kind::NotFound | Kind::PermissionDenied => error.with_kind(Kind::InvalidArgument),
        _ => error,
    }
}
