//! The init of a pod whose containers share one pid namespace: a container like others, with
//! the monitor's built-in reaper as its program, no root filesystem and nothing to exec.
//!
//! It has the pod's id as its own, lives in `<state>/containers/<pod id>` and in the cgroup
//! `<pod cgroup>/<pod id>`. When it ends, the kernel ends the whole pid namespace.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::monitor::{self as wire, reply, request::Verb};
use spec::SandboxId;
use spec::runtime::{
    Capabilities, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxSeccomp, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::context::{self, Own};
use super::files::remove_tree;
use super::teardown;
use crate::blocking;
use crate::container::plan::{self, security::Seccomp};
use crate::container::sources;
use crate::error::Error;
use crate::monitor::Client;
use crate::monitor::client::unexpected;
use crate::runtime::Runtime;
use crate::scope;
use crate::store::records::SandboxRecord;

/// Asks isolation for its reaper in the place of a program (`isolation::INIT_ANNOTATION`,
/// which the daemon must not link).
const ANNOTATION: (&str, &str) = ("io.bulkhead.init", "reaper");

/// How long making it may take.
const DEADLINE: Duration = Duration::from_secs(30);

fn directory(rt: &Runtime, id: &SandboxId) -> PathBuf {
    rt.paths.containers().join(id.as_str())
}

fn cgroup(rt: &Runtime, id: &SandboxId, record: &SandboxRecord) -> String {
    rt.config.container_cgroup(&record.cgroup, id.as_str())
}

fn bad(e: impl std::fmt::Display) -> Error {
    Error::invalid(format!("the pod's init: {e}"))
}

/// No capability, no device, no mount, the pod's namespaces and a new pid namespace; the user and the filter that the
/// pod asks for. With or without `readonly_rootfs` its root is empty and read only.
fn spec(record: &SandboxRecord, cgroup: String, own: &Own, filter: Option<LinuxSeccomp>) -> Result<Spec, Error> {
    let namespace = |typ, path: &str| -> Result<LinuxNamespace, Error> {
        let builder = LinuxNamespaceBuilder::default().typ(typ);
        let builder = if path.is_empty() { builder } else { builder.path(path) };
        builder.build().map_err(bad)
    };
    let mut namespaces = vec![
        namespace(LinuxNamespaceType::Pid, "")?,
        namespace(LinuxNamespaceType::Mount, "")?,
    ];
    for (typ, path) in [
        (LinuxNamespaceType::Network, &record.netns),
        (LinuxNamespaceType::Ipc, &record.ipcns),
        (LinuxNamespaceType::Uts, &record.utsns),
    ] {
        if !path.is_empty() {
            namespaces.push(namespace(typ, path)?);
        }
    }
    let maps = plan::id_maps(record)?;
    if maps.is_some() {
        namespaces.push(namespace(LinuxNamespaceType::User, &record.userns)?);
    }
    let none = Capabilities::new;
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(none())
        .effective(none())
        .permitted(none())
        .inheritable(none())
        .ambient(none())
        .build()
        .map_err(bad)?;
    let user = UserBuilder::default()
        .uid(own.uid)
        .gid(own.gid)
        .additional_gids(own.groups.clone())
        .build()
        .map_err(bad)?;
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(vec!["init".to_owned()])
        .env(Vec::<String>::new())
        .cwd("/")
        .capabilities(capabilities)
        .rlimits(vec![])
        .no_new_privileges(true)
        .oom_score_adj(-998)
        .build()
        .map_err(bad)?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(cgroup)
        .masked_paths(Vec::<String>::new())
        .readonly_paths(Vec::<String>::new())
        .build()
        .map_err(bad)?;
    if let Some((uids, gids)) = maps {
        linux.set_uid_mappings(Some(uids)).set_gid_mappings(Some(gids));
    }
    linux.set_seccomp(match own.seccomp {
        Seccomp::RuntimeDefault => Some(seccomp::default_profile::<&str>(&[])),
        Seccomp::Localhost(_) => filter,
        Seccomp::Unconfined => None,
    });
    let mut spec = SpecBuilder::default()
        .version("1.2.1")
        .root(RootBuilder::default().path("").readonly(true).build().map_err(bad)?)
        .mounts(vec![])
        .process(process)
        .linux(linux)
        .annotations([(ANNOTATION.0.to_owned(), ANNOTATION.1.to_owned())])
        .build()
        .map_err(bad)?;
    spec.set_hostname(None);
    Ok(spec)
}

/// Makes and starts it; its pid comes back.
pub(crate) async fn create(rt: &Arc<Runtime>, id: &SandboxId, record: &SandboxRecord) -> Result<i32, Error> {
    let dir = directory(rt, id);
    let own = context::own(record)?;
    let wanted = own.seccomp.clone();
    let profile = blocking(move || sources::seccomp(&wanted)).await?;
    // It has no capability that a rule could ask for.
    let filter = profile.map(|profile| profile.of(&HashSet::new()));
    let text = serde_json::to_vec(&spec(record, cgroup(rt, id, record), &own, filter)?)
        .map_err(|e| Error::at("encode", "the pod's init", &e))?;
    let bundle = dir.clone();
    let (client, written) = tokio::join!(
        rt.spawner.monitor(),
        blocking(move || {
            let at = |e: &std::io::Error| Error::at("make the bundle", bundle.display(), e);
            fs::DirBuilder::new().mode(0o700).create(&bundle).map_err(|e| at(&e))?;
            fs::write(bundle.join("config.json"), text).map_err(|e| at(&e))
        })
    );
    let client = client?;
    written?;
    let state_dir = dir.display().to_string();
    let create = Verb::Create(wire::Create {
        container_id: id.to_string(),
        bundle: state_dir.clone(),
        state_dir,
        cgroup_driver: rt.config.cgroup_driver.as_str().into(),
        ..wire::Create::default()
    });
    let at = |e: Error| e.during("make the init of", format!("pod {id}"));
    let holder = scope::open(rt, &cgroup(rt, id, record), &format!("init of pod {id}"), None).await?;
    let created = match client.call(create, vec![], DEADLINE).await.map_err(at)?.result {
        reply::Result::Created(created) => created,
        other => return Err(unexpected("Created", &other)),
    };
    drop(holder);
    match client
        .call(Verb::Start(wire::Start {}), vec![], DEADLINE)
        .await
        .map_err(at)?
        .result
    {
        reply::Result::Started(_) => Ok(created.pid),
        other => Err(unexpected("Started", &other)),
    }
}

/// Ends it and removes what it left. Safe on a pod without one and on what is gone.
pub(crate) async fn remove(rt: &Arc<Runtime>, id: &SandboxId, record: &SandboxRecord) -> Result<(), Error> {
    let dir = directory(rt, id);
    if !dir.exists() {
        return Ok(());
    }
    if let Ok(Ok(client)) = tokio::time::timeout(Duration::from_secs(3), Client::connect(&dir)).await {
        // Its exit is of no interest to anybody.
        drop(client.done(Verb::Discard(wire::Discard {}), DEADLINE).await);
    }
    if !record.cgroup.is_empty() {
        teardown::remove_cgroup(rt, &cgroup(rt, id, record)).await?;
    }
    blocking(move || remove_tree(&dir)).await
}
