//! RunPodSandbox.
//!
//! 1. plan (pure)   2. reserve the name, or join the same request   3. the record, as intent
//! 4. at once: namespaces, then CNI ADD; pod cgroup, files, `/dev/shm`
//! 5. the init of a shared pid namespace, if there is one   6. the record, as a fact
//!
//! The work runs in a task of its own: a caller whose deadline passes leaves it running, and
//! the retry finds its result. What fails is undone; what cannot be undone now is repeated
//! in the background, and after a restart, until it is (the intent stays until then).

use std::sync::Arc;

use proto::cri::{self, ContainerEventType};
use spec::SandboxId;
use tracing::Instrument;

use super::plan::{Node, SandboxPlan, checked, default_sysctls, plan};
use super::{context, files, init, namespaces, network, teardown};
use crate::container::plan::security::Seccomp;
use crate::container::sources;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::store::db::Table;
use crate::store::names::Reserved;
use crate::store::records::{SandboxPhase, SandboxRecord, SandboxStatus};
use crate::store::sandbox::{Sandbox, name_key, row};
use crate::undo::Undo;
use crate::{blocking, events, host, scope};

/// Makes a pod, or finds the one that the same request made.
pub(crate) async fn run(rt: &Arc<Runtime>, request: cri::RunPodSandboxRequest) -> Result<String, Error> {
    let metadata = &checked(request.config.as_ref())?.1;
    let key = name_key(metadata);
    rt.handler(&request.runtime_handler)?;
    let request = Arc::new(request);
    match rt.pod_names.reserve(&key, &request)? {
        Reserved::Taken(id) => match rt.index.find_sandbox(&id)? {
            Some(pod) if pod.phase() == SandboxPhase::Ready && *pod.request()? == *request => Ok(named(id)),
            _ => Err(rt.pod_names.taken(&key, &id)),
        },
        Reserved::Join(waiter) => {
            rt.counters.joined("RunPodSandbox");
            waiter.wait().await.map(named)
        }
        Reserved::New(ticket, waiter) => {
            let rt = Arc::clone(rt);
            let work = async move { ticket.finish(make(&rt, &request).await) };
            tokio::spawn(work.in_current_span());
            waiter.wait().await
        }
    }
}

/// Says in the request's log lines which pod it found.
fn named(id: String) -> String {
    tracing::Span::current().record("pod_id", id.as_str());
    id
}

async fn make(rt: &Arc<Runtime>, request: &cri::RunPodSandboxRequest) -> Result<String, Error> {
    let id = SandboxId::random().map_err(|e| Error::new(spec::Kind::Internal, format!("make an id: {e}")))?;
    tracing::Span::current().record("pod_id", id.as_str());
    let plan = planned(rt, &id, request).await?;
    let record = plan.record.clone();
    let mut undo = Undo::new("run_pod");
    match steps(rt, &id, plan, &mut undo).await {
        Ok(sandbox) => {
            undo.disarm();
            let sandbox = Arc::new(sandbox);
            rt.index.insert_sandbox(Arc::clone(&sandbox));
            events::pod(rt, &sandbox, ContainerEventType::ContainerCreatedEvent);
            events::pod(rt, &sandbox, ContainerEventType::ContainerStartedEvent);
            Ok(id.into())
        }
        Err(error) => {
            let failed = undo.roll_back().await;
            if failed.is_empty() {
                rt.categories.give_back(id.as_str());
                rt.db.delete(Table::Sandbox, id.as_str()).await?;
                return Err(error);
            }
            for undone in &failed {
                tracing::warn!(pod = %id, error = %undone, "undo of RunPodSandbox failed; it is repeated");
            }
            teardown::later(rt, id, record);
            Err(error)
        }
    }
}

async fn planned(rt: &Arc<Runtime>, id: &SandboxId, request: &cri::RunPodSandboxRequest) -> Result<SandboxPlan, Error> {
    let resolv_conf = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    let node = Node {
        hostname: &host::hostname(),
        resolv_conf: &resolv_conf,
        boot_id: &rt.boot_id,
        lowest_id: rt.config.runtime.userns_min_host_id,
        cgroup_driver: rt.config.cgroup_driver,
        sysctls: &default_sysctls(&rt.config.runtime),
    };
    let mut plan = plan(id, request, &rt.paths, &node)?;
    if let (false, Some(why)) = (plan.record.userns.is_empty(), &rt.no_userns) {
        return Err(Error::precondition(format!(
            "userns_options: this node has no user namespaces for pods: {why}"
        )));
    }
    let config = checked(request.config.as_ref())?.0;
    let own = context::check(config, &plan.record, &rt.host)?;
    if matches!(own.seccomp, Seccomp::Localhost(_)) {
        blocking(move || sources::seccomp(&own.seccomp)).await?;
    }
    network::attachment(&plan.record, true)?;
    let record = &mut plan.record;
    if rt.host.selinux {
        rt.categories.take(record)?;
    }
    if record.cgroup.is_empty() {
        record.cgroup = rt.config.pod_cgroup(id);
        record.cgroup_owned = true;
    } else {
        record.cgroup_owned = matches!(rt.cgroups.open(&record.cgroup), Err(e) if e.kind() == spec::Kind::NotFound);
    }
    Ok(plan)
}

async fn steps(rt: &Arc<Runtime>, id: &SandboxId, plan: SandboxPlan, undo: &mut Undo) -> Result<Sandbox, Error> {
    let mut record = plan.record.clone();
    let creating = SandboxStatus {
        phase: SandboxPhase::Creating,
        network_down: false,
        resized: None,
    };
    rt.db.put(Table::Sandbox, row(&record, &creating)?).await?;
    undo.pass("record").await?;

    push_undo(rt, id, &record, undo).await?;
    files::make_directories(&rt.paths, id)?;
    let plan = Arc::new(plan);
    let (net, local) = tokio::join!(connect(rt, &plan), make_local(rt, id, &plan));
    local?;
    let result = net?;
    undo.pass("network_added").await?;
    if let Some(result) = result {
        record.ips = network::addresses(&result);
        record.cni_result = serde_json::to_string(&result).map_err(|e| Error::at("encode", "the CNI result", &e))?;
    }
    if plan.shared_pid {
        let (rt2, id2, record2) = (Arc::clone(rt), id.clone(), record.clone());
        undo.push("init", move || async move { init::remove(&rt2, &id2, &record2).await })
            .await?;
        record.init_pid = init::create(rt, id, &record).await?;
        record.init = id.to_string();
    }
    let status = SandboxStatus {
        phase: SandboxPhase::Ready,
        network_down: false,
        resized: None,
    };
    rt.db.put(Table::Sandbox, row(&record, &status)?).await?;
    undo.pass("committed").await?;
    Ok(Sandbox::new(id.clone(), record, status))
}

/// The undo of all that is made at once; pushed before, because each is safe on nothing.
async fn push_undo(rt: &Arc<Runtime>, id: &SandboxId, record: &SandboxRecord, undo: &mut Undo) -> Result<(), Error> {
    let all = || (Arc::clone(rt), id.clone(), record.clone());
    let (rt1, _, record1) = all();
    undo.push("cgroup", move || async move { teardown::cgroup(&rt1, &record1).await })
        .await?;
    let (rt2, id2, _) = all();
    undo.push("files", move || async move { teardown::files(&rt2, &id2).await })
        .await?;
    let (rt3, id3, record3) = all();
    undo.push("namespaces", move || async move {
        teardown::unpin(&rt3, &id3, &record3).await
    })
    .await?;
    let (rt4, _, record4) = all();
    undo.push("network", move || async move { network::delete(&rt4, &record4).await })
        .await
}

/// Why a pod has no network.
enum Unconnected {
    Namespaces(Error),
    Network(cni_invoke::Error),
}

impl From<cni_invoke::Error> for Unconnected {
    fn from(error: cni_invoke::Error) -> Self {
        Self::Network(error)
    }
}

/// Namespaces, then CNI ADD; plugins that wait to be told what to do are started meanwhile.
async fn connect(rt: &Arc<Runtime>, plan: &SandboxPlan) -> Result<Option<cni_types::AddResult>, Error> {
    let pod = || format!("pod {}", plan.record.id);
    let namespaces = async {
        match namespaces::order(plan) {
            Some(order) => rt.spawner.pin(order).await.map_err(Unconnected::Namespaces),
            None => Ok(()),
        }
    };
    let connected = match network::attachment(&plan.record, true)? {
        Some(attachment) => {
            let added = rt.cni.add_when(&attachment, namespaces);
            rt.counters.network("set_up_pod", added).await.map(Some)
        }
        None => namespaces.await.map(|()| None),
    };
    connected.map_err(|error| match error {
        Unconnected::Namespaces(error) => error.during("make the namespaces of", pod()),
        Unconnected::Network(error) => Error::at("set up the network of", pod(), &error),
    })
}

/// Cgroup, files and `/dev/shm`.
async fn make_local(rt: &Arc<Runtime>, id: &SandboxId, plan: &Arc<SandboxPlan>) -> Result<(), Error> {
    scope::slice(rt, &plan.record.cgroup, &format!("pod {id}")).await?;
    if let Some(limits) = &plan.limits {
        scope::limit(rt, &plan.record.cgroup, limits).await?;
    }
    let (rt, id, plan) = (Arc::clone(rt), id.clone(), Arc::clone(plan));
    blocking(move || {
        files::make(&rt.paths, &id, &plan)?;
        let path = &plan.record.cgroup;
        let group = match rt.systemd {
            Some(_) => rt.cgroups.open(path),
            None => rt.cgroups.create(path),
        };
        let group = group.map_err(|e| Error::at("make the cgroup", path, &e))?;
        if let Some(limits) = &plan.limits {
            group
                .update(limits)
                .map_err(|e| Error::at("limit", format!("pod {id}"), &e))?;
        }
        Ok(())
    })
    .await
}
