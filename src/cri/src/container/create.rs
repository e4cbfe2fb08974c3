//! CreateContainer.
//!
//! 1. check (pure)   2. the pod is ready, the image is known   3. reserve the name, or join
//! 4. the record, as intent   5. at once: a monitor; the writable layer and its detached mount
//! 6. mount image volumes; look up sources, accounts, devices; fill the image's volumes; plan
//!    (pure); `config.json`   7. `Create` to the monitor with the mounts' descriptors
//! 8. the record, as a fact
//!
//! As in RunPodSandbox the work outlives its caller, and what fails is undone. A pod that was
//! stopped meanwhile is noticed at the end: whoever comes second cleans up.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use proto::cri::{self, ContainerEventType, NamespaceMode};
use proto::monitor::{self as wire, reply, request::Verb};
use spec::{ContainerId, Kind};
use tracing::Instrument;

use super::bundle::{Lookup, look_up_and_plan};
use super::plan::wanted::{Rules, Wanted, wanted};
use super::plan::{self, PidNamespace, Planned};
use super::record::{self, record};
use super::start::program_fault;
use super::{exit, image_volumes, remove, stop};
use crate::error::Error;
use crate::monitor::Client;
use crate::monitor::client::unexpected;
use crate::runtime::{CreateRequest, Runtime};
use crate::sandbox::{context, files, plan::pid_mode, teardown, userns};
use crate::store::container::{Container, name_key, row};
use crate::store::db::Table;
use crate::store::names::Reserved;
use crate::store::records::{ContainerRecord, Phase, SandboxPhase, SandboxRecord, Status};
use crate::store::sandbox::Sandbox;
use crate::undo::Undo;
use crate::{blocking, events, scope};

/// How long making the container up to its execve may take.
const CREATE_DEADLINE: Duration = Duration::from_secs(120);

/// Makes a container, or finds the one that the same request made.
pub(crate) async fn create(rt: &Arc<Runtime>, request: cri::CreateContainerRequest) -> Result<String, Error> {
    let config = request.config.ok_or_else(|| {
        Error::invalid(
            "config is missing: CreateContainer needs the container's configuration, at least its metadata and image",
        )
    })?;
    plan::check(&config)?;
    let sandbox = rt.index.sandbox(&request.pod_sandbox_id)?;
    ready(&sandbox)?;
    let limits = config.linux.as_ref().and_then(|l| l.resources.as_ref());
    plan::resources::check_memory(limits, rt.handler(sandbox.record.handler())?.min_memory)?;
    let options = config
        .linux
        .as_ref()
        .and_then(|l| l.security_context.as_ref()?.namespace_options.as_ref());
    userns::check_container(options, sandbox.namespace_options())?;
    let pod = request.sandbox_config.as_ref();
    context::same_pod(&sandbox.record, pod)?;
    context::privileged(&config, sandbox.config().ok(), pod)?;
    plan::lsm::selinux(&plan::context(&config), &sandbox.record, &rt.host)?;
    image_handlers(rt, &config)?;
    let metadata = config.metadata.clone().unwrap_or_default();
    let key = name_key(&metadata, sandbox.id.as_str());
    let request = Arc::new(CreateRequest {
        sandbox_id: sandbox.id.to_string(),
        log_directory: record::log_directory(&sandbox, pod)?,
        config,
    });
    match rt.container_names.reserve(&key, &request)? {
        Reserved::Taken(id) => match rt.index.find_container(&id)? {
            Some(c)
                if c.with_status(|s| s.phase == Phase::Created && !s.removing) && *c.config()? == request.config =>
            {
                Ok(named(id))
            }
            _ => Err(rt.container_names.taken(&key, &id)),
        },
        Reserved::Join(waiter) => {
            rt.counters.joined("CreateContainer");
            waiter.wait().await.map(named)
        }
        Reserved::New(ticket, waiter) => {
            let rt = Arc::clone(rt);
            let work = async move { ticket.finish(make(&rt, &sandbox, &request).await) };
            tokio::spawn(work.in_current_span());
            waiter.wait().await
        }
    }
}

/// The handler that the image, or the image of a mount, is for must be there (KEP 4216). All handlers have one store.
fn image_handlers(rt: &Runtime, config: &cri::ContainerConfig) -> Result<(), Error> {
    let mounts = config.mounts.iter().filter_map(|mount| mount.image.as_ref());
    config
        .image
        .iter()
        .chain(mounts)
        .try_for_each(|image| rt.image_handler(image))
}

/// Says in the request's log lines which container it found.
fn named(id: String) -> String {
    tracing::Span::current().record("container_id", id.as_str());
    id
}

fn ready(sandbox: &Sandbox) -> Result<(), Error> {
    if sandbox.phase() == SandboxPhase::Ready {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "pod {} is not ready; run the pod again with another attempt number",
        sandbox.id
    )))
}

async fn make(rt: &Arc<Runtime>, sandbox: &Arc<Sandbox>, request: &CreateRequest) -> Result<String, Error> {
    let config = &request.config;
    let asked = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
    let image = rt
        .images
        .resolve(&asked)
        .map_err(|e| Error::at("find the image", &asked, &e))?;
    let image = image.ok_or_else(|| Error::not_found(format!("image {asked:?} is not on this node; pull it first")))?;
    let wanted = wanted(config, rules(rt))?;
    let volumes = image_volumes::find(rt, &wanted)?;
    let id = ContainerId::random().map_err(|e| Error::new(Kind::Internal, format!("make an id: {e}")))?;
    tracing::Span::current().record("container_id", id.as_str());
    let mut record = record(rt, &id, sandbox, request, &image)?;
    record.volume_images = volumes.iter().map(|i| i.id.to_string()).collect();
    let mut undo = Undo::new("create_container");
    let error = match steps(rt, sandbox, &id, (record.clone(), wanted), &image, &mut undo).await {
        Ok(container) => {
            rt.index.insert_container(Arc::clone(&container));
            match ready(sandbox) {
                Ok(()) => {
                    undo.disarm();
                    events::container(rt, &container, ContainerEventType::ContainerCreatedEvent);
                    return Ok(id.into());
                }
                Err(stopped) => {
                    rt.index.remove_container(&id);
                    stopped
                }
            }
        }
        Err(error) => error,
    };
    let failed = undo.roll_back().await;
    for undone in &failed {
        tracing::warn!(container = %id, error = %undone, "undo of CreateContainer failed; it is repeated");
    }
    if failed.is_empty() {
        rt.db.delete(Table::Container, id.as_str()).await?;
    } else {
        let half = Container::new(id, record, Status::creating());
        later(rt, Arc::new(half));
    }
    Err(error)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the script of the verb: each is one thing that it works on"
)]
async fn steps(
    rt: &Arc<Runtime>,
    sandbox: &Arc<Sandbox>,
    id: &ContainerId,
    (mut record, wanted): (ContainerRecord, Vec<Wanted>),
    image: &Arc<image::Image>,
    undo: &mut Undo,
) -> Result<Arc<Container>, Error> {
    rt.db.put(Table::Container, row(&record, &Status::creating())?).await?;
    undo.pass("record").await?;

    let (images, layer) = (Arc::clone(rt), id.clone());
    let remove_layer = move || async move {
        images
            .images
            .snapshot_remove(&layer)
            .await
            .map_err(|e| Error::at("remove the writable layer of", &layer, &e))
    };
    undo.push("snapshot", remove_layer).await?;
    let (dir, rt2, group) = (rt.paths.container(id), Arc::clone(rt), record.cgroup.clone());
    let log = record.log_path.clone();
    let remove_bundle = move || async move {
        // The monitor removes its cgroup; one that was killed could not.
        teardown::remove_cgroup(&rt2, &group).await?;
        // systemd may make late what it was asked for in vain.
        scope::close(&rt2, &group).await?;
        blocking(move || files::remove_empty_log(&log)).await?;
        blocking(move || files::remove_tree(&dir)).await
    };
    undo.push("bundle", remove_bundle).await?;
    let (client, mount) = tokio::join!(rt.spawner.monitor(), snapshot(rt, id, &record, &sandbox.record));
    let client = client?;
    let discard = client.clone();
    undo.push("monitor", move || async move {
        // A monitor that is gone has nothing left to discard.
        drop(
            discard
                .done(Verb::Discard(wire::Discard {}), Duration::from_secs(10))
                .await,
        );
        Ok(())
    })
    .await?;
    let mount = mount?;

    let config = record.config.clone().unwrap_or_default();
    let pid = pid_namespace(rt, sandbox, &config)?;
    let lookup = Lookup {
        rt: Arc::clone(rt),
        sandbox: Arc::clone(sandbox),
        record: record.clone(),
        image: Arc::clone(image),
        pid,
        wanted,
    };
    let (planned, fds) = blocking(move || mount_and_plan(lookup, mount)).await?;
    for note in &planned.notes {
        tracing::info!(container = %id, note, "the host withholds something");
    }
    record.stop_signal = planned.stop_signal;

    let limits = planned
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let holder = scope::open(rt, &record.cgroup, &format!("container {id}"), limits).await?;
    let made = ask(rt, &client, &record, &config, fds).await?;
    drop(holder);
    record.pid = made.pid;
    record.uid = made.uid;
    record.gid = made.gid;
    record.groups = made.additional_gids;
    undo.pass("created").await?;
    let status = Status {
        phase: Phase::Created,
        removing: false,
        stop_by: None,
        resized: None,
    };
    rt.db.put(Table::Container, row(&record, &status)?).await?;
    undo.pass("committed").await?;
    let container = Arc::new(Container::new(id.clone(), record, status));
    container.set_monitor(Some(client.clone()));
    container.set_process(Arc::new(planned.process));
    exit::watch(rt, &container, &client);
    Ok(container)
}

/// The writable layer over the image's, as a mount that is attached nowhere.
async fn snapshot(
    rt: &Arc<Runtime>,
    id: &ContainerId,
    record: &ContainerRecord,
    pod: &SandboxRecord,
) -> Result<OwnedFd, Error> {
    let label = plan::file_label(record, pod, &rt.host)?;
    let image = spec::ImageId::parse(&record.image_id).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let made = rt.images.snapshot_create(id, &image, pod.shift()).await;
    made.map_err(|e| Error::at("make the writable layer of", id, &e))?;
    let (rt, id, pod) = (Arc::clone(rt), id.clone(), pod.clone());
    blocking(move || {
        let user = userns::open_of(&pod)?;
        let mapped = user.as_ref().map(|user| image::Mapped {
            userns: user.as_fd(),
            shift: pod.shift(),
        });
        rt.images
            .snapshot_mount(&id, mapped, label.as_deref())
            .map_err(|e| Error::at("mount the root of", &id, &e))
    })
    .await
}

fn rules(rt: &Runtime) -> Rules {
    Rules {
        recursive_read_only: rt.host.recursive_read_only,
    }
}

/// The descriptors of Create: the root's, and those of the mounts at `places`.
struct Descriptors {
    fds: Vec<OwnedFd>,
    places: Vec<u32>,
}

/// Mounts the image volumes, then plans.
fn mount_and_plan(mut lookup: Lookup, root: OwnedFd) -> Result<(Planned, Descriptors), Error> {
    let id = ContainerId::parse(&lookup.record.id).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let volumes = image_volumes::mount(
        &lookup.rt,
        &id,
        &lookup.record,
        &mut lookup.wanted,
        &lookup.sandbox.record,
    )?;
    let (planned, root) = look_up_and_plan(&lookup, root)?;
    let places = image_volumes::places(&planned.spec, &lookup.rt, &id, volumes.len())?;
    let fds = std::iter::once(root).chain(volumes).collect();
    Ok((planned, Descriptors { fds, places }))
}

/// Which pid namespace the container is to be in.
fn pid_namespace(rt: &Runtime, sandbox: &Sandbox, config: &cri::ContainerConfig) -> Result<PidNamespace, Error> {
    let context = plan::context(config);
    let options = context
        .namespace_options
        .as_ref()
        .or_else(|| sandbox.namespace_options());
    let process = |pid: i32| PidNamespace::Join(format!("/proc/{pid}/ns/pid").into());
    match pid_mode(options) {
        NamespaceMode::Container => Ok(PidNamespace::Own),
        NamespaceMode::Node => Ok(PidNamespace::Host),
        NamespaceMode::Pod if sandbox.record.init_pid > 0 => Ok(process(sandbox.record.init_pid)),
        // The pod was made without a shared one: there is nothing to join.
        NamespaceMode::Pod => Ok(PidNamespace::Own),
        NamespaceMode::Target => {
            let target = options.map(|o| o.target_id.as_str()).unwrap_or_default();
            let target = rt.index.container(target)?;
            if target.record.sandbox_id != sandbox.id.as_str() {
                return Err(Error::invalid(format!(
                    "target container {} is in another pod",
                    target.id
                )));
            }
            if !target.with_status(Status::is_running) {
                return Err(Error::precondition(format!(
                    "target container {} does not run",
                    target.id
                )));
            }
            Ok(process(target.record.pid))
        }
    }
}

async fn ask(
    rt: &Runtime,
    client: &Client,
    record: &ContainerRecord,
    config: &cri::ContainerConfig,
    with: Descriptors,
) -> Result<wire::Created, Error> {
    let dir = rt.paths.containers().join(&record.id).display().to_string();
    let verb = Verb::Create(wire::Create {
        container_id: record.id.clone(),
        bundle: dir.clone(),
        state_dir: dir,
        log_path: record.log_path.clone(),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        rootfs_fd: true,
        cgroup_driver: rt.config.cgroup_driver.as_str().into(),
        max_log_line: rt.config.runtime.max_log_line,
        mount_fds: with.places,
    });
    let at = |e: Error| program_fault(e).during("create", format!("container {}", record.id));
    match client.call(verb, with.fds, CREATE_DEADLINE).await.map_err(at)?.result {
        reply::Result::Created(created) => {
            for clamped in &created.clamped {
                tracing::info!(container = %record.id, clamped, "the host withholds something");
            }
            Ok(created)
        }
        other => Err(unexpected("Created", &other)),
    }
}

/// Repeats the cleaning of a half-made container until it succeeds, then forgets it.
pub(crate) fn later(rt: &Arc<Runtime>, container: Arc<Container>) {
    let rt = Arc::clone(rt);
    tokio::spawn(async move {
        let mut pause = Duration::from_secs(1);
        loop {
            stop::discard(&container).await;
            let done = match remove::clean(&rt, &container).await {
                Ok(()) => rt.db.delete(Table::Container, container.id.as_str()).await,
                Err(e) => Err(e),
            };
            match done {
                Ok(()) => return,
                Err(error) => tracing::warn!(container = %container.id, %error, "a half-made container stays for now"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(60));
        }
    });
}
