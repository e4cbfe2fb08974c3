//! At start: compares records, monitors, exit records, namespaces, snapshots and files with
//! one another; adopts what is whole, finishes what was being removed, removes what nobody
//! owns. Nothing here stops the daemon: a damaged record is put aside, what cannot be done
//! now is repeated in the background.
//!
//! | record says       | there is                    | becomes                               |
//! |-------------------|-----------------------------|---------------------------------------|
//! | pod Creating      | whatever                    | taken down, forgotten                 |
//! | pod Ready         | this boot, its namespaces   | adopted                               |
//! | pod Ready         | another boot, or none       | NOTREADY                              |
//! | pod Removing      | whatever                    | removed                               |
//! | container Creating| whatever                    | discarded, forgotten                  |
//! | Created, Running  | a monitor that answers      | adopted, with what the monitor says   |
//! | Created, Running  | an exit record              | EXITED, with its code and time        |
//! | Created, Running  | neither                     | EXITED 255 Unknown, the rest killed   |
//! | removing          | whatever                    | removed                               |
//!
//! Directories and snapshots without a record were made by a daemon that died before it
//! wrote one, or after it forgot: they go.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proto::monitor::{self as wire, reply, request::Verb};
use spec::{ContainerId, ExitReason, SandboxId};

use crate::container::{create, exit, remove, stop};
use crate::error::Error;
use crate::monitor::Client;
use crate::runtime::Runtime;
use crate::sandbox::{self, files, teardown};
use crate::store::container::{self as containers, Container};
use crate::store::db::{Loaded, Row, Table};
use crate::store::records::{ContainerRecord, Phase, SandboxPhase, SandboxRecord, SandboxStatus, Status, decode};
use crate::store::sandbox::{Sandbox, name_key};
use crate::{blocking, clock};

/// How long a monitor may take to say its state: one that hangs must not hold up the rest.
const ANSWER: Duration = Duration::from_secs(3);

/// How long CNI may take to clean up before the node is served.
const GC: Duration = Duration::from_secs(10);

/// Brings back what the last daemon left.
pub(crate) async fn restore(rt: &Arc<Runtime>, loaded: Loaded) {
    let (pods, conts) = (loaded.sandboxes.len(), loaded.containers.len());
    let mut known = Known::default();
    for row in loaded.sandboxes {
        known.pods.insert(row.id.clone());
        if let Err(error) = pod(rt, &row).await {
            put_aside(rt, Table::Sandbox, &row.id, &error).await;
        }
    }
    let work = loaded.containers.into_iter().map(|row| {
        known.containers.insert(row.id.clone());
        let rt = Arc::clone(rt);
        tokio::spawn(async move {
            match container(&rt, &row).await {
                Ok(half) => half,
                Err(error) => {
                    put_aside(&rt, Table::Container, &row.id, &error).await;
                    None
                }
            }
        })
    });
    let mut halves = Vec::new();
    for done in futures_util::future::join_all(work).await {
        match done {
            Ok(half) => halves.extend(half),
            Err(error) => tracing::error!(%error, "restoring a container ended without a result"),
        }
    }
    half_made(rt, halves).await;
    finish_removals(rt);
    sweep(rt, &known).await;
    tracing::info!(pods, containers = conts, "state restored");
}

/// Discards what CreateContainer had begun. Before anybody is served, since the next attempt may log to the same file;
/// the rest may take its time.
async fn half_made(rt: &Arc<Runtime>, halves: Vec<Arc<Container>>) {
    let discarded = halves.iter().map(|half| async {
        let shared = || {
            rt.index
                .containers()
                .iter()
                .any(|c| c.record.log_path == half.record.log_path)
        };
        // The log of one that is still being made would be there again.
        let gone = tokio::time::timeout(ANSWER, stop::discard(half)).await.is_ok();
        if gone && !shared() {
            let log = half.record.log_path.clone();
            if let Err(error) = blocking(move || files::remove_empty_log(&log)).await {
                tracing::warn!(container = %half.id, %error, "the kubelet will take its next attempt for a restart");
            }
        }
    });
    futures_util::future::join_all(discarded).await;
    for half in halves {
        create::later(rt, half);
    }
}

/// Ids that have a record; half-made objects among them are cleaned by their own tasks.
#[derive(Default)]
struct Known {
    pods: HashSet<String>,
    containers: HashSet<String>,
}

async fn put_aside(rt: &Runtime, table: Table, id: &str, error: &Error) {
    tracing::error!(id, %error, "a damaged record is put aside (table quarantine)");
    if let Err(error) = rt.db.quarantine(table, id, &error.to_string()).await {
        tracing::error!(id, %error, "it could not be put aside");
    }
}

fn damaged(what: &str) -> Error {
    Error::new(spec::Kind::DataLoss, format!("the record has no {what}"))
}

async fn pod(rt: &Arc<Runtime>, row: &Row) -> Result<(), Error> {
    let (record, mut status): (SandboxRecord, SandboxStatus) = decode(&row.record, &row.status)?;
    let id = SandboxId::parse(&row.id).map_err(|e| Error::new(spec::Kind::DataLoss, e.to_string()))?;
    rt.categories.hold(&record);
    let request = record.request.as_ref().ok_or_else(|| damaged("request"))?;
    let metadata = request
        .config
        .as_ref()
        .and_then(|c| c.metadata.clone())
        .ok_or_else(|| damaged("metadata"))?;
    if status.phase == SandboxPhase::Creating {
        // In the background: a plugin that hangs must not hold up the start.
        tracing::info!(pod = %id, "taking down a half-made pod");
        teardown::later(rt, id, record);
        return Ok(());
    }
    let there = |path: &String| path.is_empty() || std::path::Path::new(path).exists();
    let whole = record.boot_id == rt.boot_id
        && [&record.netns, &record.ipcns, &record.utsns, &record.userns]
            .into_iter()
            .all(there);
    let broken = status.phase == SandboxPhase::Ready && !whole;
    if broken {
        tracing::info!(pod = %id, "its namespaces are gone: not ready");
        status.phase = SandboxPhase::NotReady;
    }
    rt.pod_names.adopt(&name_key(&metadata), id.as_str());
    let sandbox = Arc::new(Sandbox::new(id, record, status));
    if broken {
        sandbox.update(&rt.db, |_| {}).await?;
    }
    rt.index.insert_sandbox(sandbox);
    Ok(())
}

/// Brings back one container; answers it where it was never made whole.
async fn container(rt: &Arc<Runtime>, row: &Row) -> Result<Option<Arc<Container>>, Error> {
    let (record, status): (ContainerRecord, Status) = decode(&row.record, &row.status)?;
    let id = ContainerId::parse(&row.id).map_err(|e| Error::new(spec::Kind::DataLoss, e.to_string()))?;
    let config = record.config.as_ref().ok_or_else(|| damaged("configuration"))?;
    let metadata = config.metadata.clone().ok_or_else(|| damaged("metadata"))?;
    let key = containers::name_key(&metadata, &record.sandbox_id);
    let half = status.phase == Phase::Creating;
    let (sandbox_id, same_boot) = (record.sandbox_id.clone(), record.boot_id == rt.boot_id);
    let container = Arc::new(Container::new(id, record, status));
    let client = if same_boot { connect(rt, &container).await } else { None };
    container.set_monitor(client.clone());
    if half {
        tracing::info!(container = %container.id, "cleaning up a half-made container");
        return Ok(Some(container));
    }
    if rt.index.find_sandbox(&sandbox_id)?.is_none() {
        tracing::warn!(container = %container.id, "its pod is unknown: removing it");
        rt.index.insert_container(Arc::clone(&container));
        return remove::away(rt, &container).await.map(|()| None);
    }
    rt.container_names.adopt(&key, container.id.as_str());
    match client {
        Some(client) => adopt(rt, &container, &client).await,
        None if container.with_status(|s| s.exit().is_none()) => ended(rt, &container).await?,
        None => {}
    }
    rt.index.insert_container(container);
    Ok(None)
}

async fn connect(rt: &Runtime, container: &Container) -> Option<Client> {
    if container.with_status(|s| s.exit().is_some()) {
        return None;
    }
    let dir = rt.paths.container(&container.id);
    match tokio::time::timeout(ANSWER, Client::connect(&dir)).await {
        Ok(Ok(client)) => Some(client),
        Ok(Err(error)) => {
            tracing::debug!(container = %container.id, %error, "no monitor");
            None
        }
        Err(_) => {
            tracing::warn!(container = %container.id, "its monitor does not answer");
            None
        }
    }
}

/// Takes over a container whose monitor answers.
async fn adopt(rt: &Arc<Runtime>, container: &Arc<Container>, client: &Client) {
    let state = client.call(Verb::GetState(wire::GetState {}), vec![], ANSWER).await;
    let state = match state.map(|a| a.result) {
        Ok(reply::Result::State(state)) => state,
        other => {
            tracing::warn!(container = %container.id, ?other, "its monitor does not say its state");
            exit::watch(rt, container, client);
            return;
        }
    };
    // It may have started, or ended, between the order and the record.
    if state.status() == wire::Status::Running {
        let started_at = state.started_at;
        let update = container.update(&rt.db, |s| {
            let was = s.phase == Phase::Created;
            if was {
                s.phase = Phase::Running { started_at };
            }
            was
        });
        if let Err(error) = update.await {
            tracing::warn!(container = %container.id, %error, "a start could not be recorded");
        }
    }
    if let Some(exited) = &state.exited {
        if let Err(error) = exit::settle(rt, container, exit::from_wire(exited)).await {
            tracing::warn!(container = %container.id, %error, "an end could not be recorded");
        }
        return;
    }
    exit::watch(rt, container, client);
    if let Some(by) = container.with_status(|s| s.stop_by) {
        let left = u64::try_from(by - clock::wall()).unwrap_or(0);
        stop::ask(rt, container, Duration::from_nanos(left));
    }
}

/// A container without a monitor: its exit record, or nothing but 255.
async fn ended(rt: &Arc<Runtime>, container: &Arc<Container>) -> Result<(), Error> {
    let record = match exit::lost(rt, container).await {
        Some(record) => record,
        None => exit::record(
            255,
            ExitReason::Unknown,
            0,
            "the container was lost while it was being removed",
        ),
    };
    exit::settle(rt, container, record).await
}

/// Finishes, in the background, what was being removed.
fn finish_removals(rt: &Arc<Runtime>) {
    for container in rt.index.containers() {
        if container.with_status(|s| s.removing) {
            let rt = Arc::clone(rt);
            tokio::spawn(async move {
                if let Err(error) = remove::away(&rt, &container).await {
                    tracing::warn!(container = %container.id, %error, "a removal could not be finished; remove it again");
                }
            });
        }
    }
    for pod in rt.index.sandboxes() {
        if pod.phase() == SandboxPhase::Removing {
            let rt = Arc::clone(rt);
            tokio::spawn(async move {
                if let Err(error) = sandbox::remove::away(&rt, &pod).await {
                    tracing::warn!(pod = %pod.id, %error, "a removal could not be finished; remove it again");
                }
            });
        }
    }
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Removes what no record owns.
async fn sweep(rt: &Arc<Runtime>, known: &Known) {
    for name in names(&rt.paths.containers()) {
        let Ok(id) = ContainerId::parse(&name) else { continue };
        if known.containers.contains(&name) || known.pods.contains(&name) {
            continue;
        }
        tracing::info!(container = %id, "removing what no record owns");
        let dir = rt.paths.container(&id);
        if let Ok(Ok(client)) = tokio::time::timeout(ANSWER, Client::connect(&dir)).await {
            drop(client.done(Verb::Discard(wire::Discard {}), ANSWER).await);
        }
        warned(&id, files::remove_tree(&dir));
    }
    for id in rt.images.snapshots() {
        if !known.containers.contains(id.as_str()) && !known.pods.contains(id.as_str()) {
            tracing::info!(container = %id, "removing a writable layer that no record owns");
            warned(
                &id,
                rt.images
                    .snapshot_remove(&id)
                    .await
                    .map_err(|e| Error::at("remove the layer of", &id, &e)),
            );
        }
    }
    let pods: HashSet<String> = names(&rt.paths.pods())
        .into_iter()
        .chain(names(&rt.paths.namespaces()))
        .collect();
    for name in pods {
        let Ok(id) = SandboxId::parse(&name) else { continue };
        if known.pods.contains(&name) {
            continue;
        }
        tracing::info!(pod = %id, "removing what no record owns");
        let text = |path: std::path::PathBuf| path.display().to_string();
        let record = SandboxRecord {
            id: name.clone(),
            netns: text(rt.paths.network_namespace(&id)),
            ipcns: text(rt.paths.ipc_namespace(&id)),
            utsns: text(rt.paths.uts_namespace(&id)),
            userns: text(rt.paths.user_namespace(&id)),
            cgroup: rt.config.pod_cgroup(&id),
            cgroup_owned: true,
            ..SandboxRecord::default()
        };
        warned(&id, teardown::whole(rt, &id, &record).await);
    }
    gc(rt).await;
}

fn warned(id: &impl std::fmt::Display, done: Result<(), Error>) {
    if let Err(error) = done {
        tracing::warn!(%id, %error, "it stays for now; the next start tries again");
    }
}

/// Tells CNI which attachments are still wanted.
async fn gc(rt: &Arc<Runtime>) {
    let pods = rt.index.sandboxes();
    let valid: Vec<(String, String)> = pods
        .iter()
        .filter(|p| !p.host_network() && !p.status().network_down)
        .map(|p| (p.id.to_string(), sandbox::network::IFNAME.to_owned()))
        .collect();
    // Waited for: GC and ADD must not meet (CNI 1.1, section GC). But not for ever.
    match tokio::time::timeout(GC, rt.counters.network("gc", rt.cni.gc(&valid))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "CNI GC was not possible"),
        Err(_) => tracing::warn!("CNI GC takes too long; given up"),
    }
}
