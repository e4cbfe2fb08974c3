//! CRI configuration + image configuration → OCI specification. PURE: no file is opened
//! here; what must be looked up comes in `Input`, so that every rule is tested without root.
//!
//! A field that this build cannot honour is an error that names it; nothing is dropped.

pub(crate) mod annotations;
pub(crate) mod devices;
mod init_system;
pub(crate) mod lsm;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod profile;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod users;
pub(crate) mod wanted;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use proto::cri;
use spec::image::ImageConfiguration;
use spec::runtime::{
    Capability, LinuxBuilder, LinuxDevice, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPids, LinuxResources, LinuxSeccomp, Mount, Process, ProcessBuilder,
    Root, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use self::devices::HostDevice;
use self::mounts::{PodFiles, Volume};
use self::profile::Profile;
use self::security::Seccomp;
use self::users::Accounts;
use self::wanted::Wanted;
use crate::cdi;
use crate::error::Error;
use crate::handler::{self, Handler};
use crate::store::records::{ContainerRecord, SandboxRecord};

/// Most bytes of labels and annotations together. Kubernetes itself allows 256 KiB of
/// annotations, the peers take what a gRPC message holds; what is larger than this comes from no
/// kubelet, sits in memory for as long as its object, and a few of them would make every list
/// longer than the 16 MiB that the kubelet reads.
pub(crate) const MAX_METADATA: usize = 2 << 20;

/// What was found out about this host when the daemon started.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostFacts {
    /// AppArmor is enabled.
    pub(crate) apparmor: bool,
    /// The AppArmor profile of a container that asks for none of its own; None where none is loaded.
    pub(crate) default_apparmor: Option<String>,
    /// SELinux is enabled.
    pub(crate) selinux: bool,
    /// Options for it are refused: there is none, and the administrator did not say to go without.
    pub(crate) refuses_selinux: bool,
    /// It is not for containers on the host's network.
    pub(crate) no_selinux_on_host_network: bool,
    /// Whole trees of mounts can be made read only.
    pub(crate) recursive_read_only: bool,
    /// cgroup v2 only.
    pub(crate) cgroup_v2: bool,
    /// A container may divide its cgroup and not lift its limits.
    pub(crate) delegates: bool,
    /// Our own bounding set: more cannot be given.
    pub(crate) capabilities: HashSet<Capability>,
}

/// Where the container's pid namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    /// A new one.
    Own,
    /// The host's.
    Host,
    /// The one of a process: the pod's init, or another container's.
    Join(PathBuf),
}

/// All that the plan is made from.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    /// The container's id.
    pub(crate) id: &'a str,
    /// What is asked for.
    pub(crate) config: &'a cri::ContainerConfig,
    /// The image's configuration.
    pub(crate) image: &'a ImageConfiguration,
    /// The pod.
    pub(crate) sandbox: &'a SandboxRecord,
    /// The pod's files.
    pub(crate) files: &'a PodFiles,
    /// The image's account files.
    pub(crate) accounts: &'a Accounts,
    /// CRI's mounts, checked.
    pub(crate) mounts: &'a [Wanted],
    /// The image's volumes.
    pub(crate) volumes: &'a [Volume],
    /// Where an account file lies that is made for this container.
    pub(crate) passwd_file: &'a Path,
    /// CRI's devices (or all of the host's), looked up.
    pub(crate) devices: &'a [HostDevice],
    /// Where the pid namespace comes from.
    pub(crate) pid: PidNamespace,
    /// The text of a localhost seccomp profile.
    pub(crate) seccomp: Option<Profile>,
    /// The container's cgroup.
    pub(crate) cgroup: &'a str,
    /// The host.
    pub(crate) host: &'a HostFacts,
    /// The pod's runtime handler.
    pub(crate) handler: &'a Handler,
    /// Where the file lies that is to be `/etc/localtime`.
    pub(crate) localtime: Option<&'a Path>,
}

/// The plan.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The specification.
    pub(crate) spec: Spec,
    /// Its process, from which execs are made.
    pub(crate) process: Process,
    /// The signal that asks the container to stop.
    pub(crate) stop_signal: i32,
    /// The text of the container's own account file, if it needs one.
    pub(crate) passwd: Option<String>,
    /// What the host withholds, for the log.
    pub(crate) notes: Vec<String>,
}

/// The security context, or an empty one.
pub(crate) fn context(config: &cri::ContainerConfig) -> cri::LinuxContainerSecurityContext {
    config
        .linux
        .as_ref()
        .and_then(|l| l.security_context.clone())
        .unwrap_or_default()
}

/// Checks what needs neither the image nor the host, before anything is done.
pub(crate) fn check(config: &cri::ContainerConfig) -> Result<(), Error> {
    let metadata = config.metadata.as_ref();
    let Some(metadata) = metadata else {
        return Err(Error::invalid("config.metadata is missing: give the container a name"));
    };
    if metadata.name.is_empty() {
        return Err(Error::invalid(
            "config.metadata.name is empty: give the container a name",
        ));
    }
    if config.image.as_ref().is_none_or(|i| i.image.is_empty()) {
        return Err(Error::invalid(
            "config.image names no image: give it a name, or an id that PullImage answered",
        ));
    }
    if config.windows.is_some() {
        return Err(Error::invalid("config.windows is set: this is a Linux node"));
    }
    check_maps(&config.labels, &config.annotations)?;
    cdi::wanted(config)?;
    let texts = [&config.working_dir, &config.log_path, &metadata.name]
        .into_iter()
        .chain(&config.command)
        .chain(&config.args)
        .chain(config.mounts.iter().flat_map(|m| [&m.host_path, &m.container_path]));
    for text in texts {
        if text.contains('\0') {
            return Err(Error::invalid(format!("{text:?} contains a NUL byte")));
        }
    }
    Ok(())
}

/// The maps of the pod's user namespace, users and groups, where it has one.
pub(crate) fn id_maps(sandbox: &SandboxRecord) -> Result<Option<IdMaps>, Error> {
    let shift = sandbox.shift();
    if sandbox.userns.is_empty() {
        return Ok(None);
    }
    Ok(Some((
        vec![id_map(0, shift.uid, shift.size)?],
        vec![id_map(0, shift.gid, shift.size)?],
    )))
}

/// Users and groups.
pub(crate) type IdMaps = (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>);

/// One extent.
pub(crate) fn id_map(inside: u32, host: u32, size: u32) -> Result<LinuxIdMapping, Error> {
    let built_map = LinuxIdMappingBuilder::default()
        .container_id(inside)
        .host_id(host)
        .size(size);
    built("id mapping", built_map.build())
}

/// Labels and annotations: bounded, no NUL.
pub(crate) fn check_maps(labels: &HashMap<String, String>, annotations: &HashMap<String, String>) -> Result<(), Error> {
    let all = || labels.iter().chain(annotations);
    let size: usize = all().map(|(k, v)| k.len() + v.len()).sum();
    if size > MAX_METADATA {
        return Err(Error::invalid(format!(
            "labels and annotations are {size} bytes; at most {MAX_METADATA} are taken (Kubernetes allows 262144)"
        )));
    }
    match all().find(|(k, v)| k.contains('\0') || v.contains('\0')) {
        Some((key, _)) => Err(Error::invalid(format!(
            "label or annotation {key:?} contains a NUL byte"
        ))),
        None => Ok(()),
    }
}

/// The SELinux context of the container's files, where it has one.
pub(crate) fn file_label(
    record: &ContainerRecord,
    pod: &SandboxRecord,
    host: &HostFacts,
) -> Result<Option<String>, Error> {
    let context = record.config.as_ref().map(context).unwrap_or_default();
    Ok(match lsm::selinux(&context, pod, host)? {
        lsm::Selinux::Labels(labels) => Some(labels.files),
        _ => None,
    })
}

/// What the pod's own options say.
pub(crate) fn pod_selinux(sandbox: &SandboxRecord) -> Option<&cri::SeLinuxOption> {
    sandbox.security_context()?.selinux_options.as_ref()
}

/// The profile that the pod names.
pub(crate) fn pod_apparmor(sandbox: &SandboxRecord) -> Option<&cri::SecurityProfile> {
    sandbox.security_context()?.apparmor.as_ref()
}

fn built<T>(what: &str, result: Result<T, impl std::fmt::Display>) -> Result<T, Error> {
    result.map_err(|e| Error::invalid(format!("{what}: {e}")))
}

fn namespace(typ: LinuxNamespaceType, path: Option<PathBuf>) -> Result<LinuxNamespace, Error> {
    let mut builder = LinuxNamespaceBuilder::default().typ(typ);
    if let Some(path) = path {
        builder = builder.path(path);
    }
    built("namespaces", builder.build())
}

/// New mount namespace (and cgroup namespace where v2 gives it a meaning); the pod's
/// network, IPC and UTS by path; no entry means the host's.
fn namespaces(input: &Input<'_>) -> Result<Vec<LinuxNamespace>, Error> {
    let mut list = vec![namespace(LinuxNamespaceType::Mount, None)?];
    for (typ, path) in [
        (LinuxNamespaceType::Network, &input.sandbox.netns),
        (LinuxNamespaceType::Ipc, &input.sandbox.ipcns),
        (LinuxNamespaceType::Uts, &input.sandbox.utsns),
    ] {
        if !path.is_empty() {
            list.push(namespace(typ, Some(PathBuf::from(path)))?);
        }
    }
    if !input.sandbox.userns.is_empty() {
        list.push(namespace(
            LinuxNamespaceType::User,
            Some(PathBuf::from(&input.sandbox.userns)),
        )?);
    }
    match &input.pid {
        PidNamespace::Own => list.push(namespace(LinuxNamespaceType::Pid, None)?),
        PidNamespace::Join(path) => list.push(namespace(LinuxNamespaceType::Pid, Some(path.clone()))?),
        PidNamespace::Host => {}
    }
    if input.host.cgroup_v2 && !context(input.config).privileged {
        list.push(namespace(LinuxNamespaceType::Cgroup, None)?);
    }
    Ok(list)
}

/// The container's own account file with its mount, for a user that the image does not know;
/// not where the caller brings a file.
fn account(input: &Input<'_>, identity: &users::Identity, mounts: &mut Vec<Mount>) -> Result<Option<String>, Error> {
    let passwd = users::with_entry(identity, input.accounts);
    let brought = |m: &Wanted| Path::new(users::PASSWD).starts_with(&m.target);
    if passwd.is_none() || input.mounts.iter().any(brought) {
        return Ok(None);
    }
    mounts.push(mounts::account_file(input.passwd_file)?);
    Ok(passwd)
}

fn root(readonly: bool) -> Result<Root, Error> {
    built("root", RootBuilder::default().path("rootfs").readonly(readonly).build())
}

/// The time zone that the administrator set; not where the caller brings a file.
fn localtime(input: &Input<'_>, mounts: &mut Vec<Mount>) -> Result<(), Error> {
    let brought = |m: &Wanted| Path::new(mounts::LOCALTIME).starts_with(&m.target);
    if let Some(source) = input.localtime
        && !input.mounts.iter().any(brought)
    {
        mounts.push(mounts::localtime(source)?);
    }
    Ok(())
}

/// The limits, the device nodes and the rules of the device cgroup.
fn resources_and_devices(
    input: &Input<'_>,
    limits: &cri::LinuxContainerResources,
    context: &cri::LinuxContainerSecurityContext,
    identity: &users::Identity,
) -> Result<(LinuxResources, Vec<LinuxDevice>), Error> {
    let mut resources = resources::resources(limits)?;
    let all = context.privileged && input.handler.devices != handler::Devices::Asked;
    let mut devices = input.devices.to_vec();
    if input.handler.device_ownership {
        let (shift, named) = (input.sandbox.shift(), !context.run_as_username.is_empty());
        let uid = (named || context.run_as_user.is_some()).then(|| shift.uid.saturating_add(identity.uid));
        let gid = context.run_as_group.is_some();
        let gid = gid.then(|| shift.gid.saturating_add(identity.gid));
        devices::give(&mut devices, (uid, gid));
    }
    let (nodes, rules) = devices::devices(&devices, all)?;
    resources.set_devices(Some(rules));
    if let Some(most) = input.handler.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(most);
        resources.set_pids(Some(pids));
    }
    Ok((resources, nodes))
}

/// Makes the plan.
pub(crate) fn plan(input: &Input<'_>) -> Result<Planned, Error> {
    let config = input.config;
    let context = context(config);
    let empty = spec::image::Config::default();
    let image = input.image.config().as_ref().unwrap_or(&empty);
    let identity = users::resolve(&context, image.user().as_deref().unwrap_or(""), input.accounts)?;
    let caps = security::capabilities(&context, &input.handler.default_capabilities, input.host)?;
    let apparmor = lsm::apparmor(&context, pod_apparmor(input.sandbox), input.host)?;
    let selinux = lsm::selinux(&context, input.sandbox, input.host)?;
    let (masked, readonly) = security::hidden(&context)?;
    let no_resources = cri::LinuxContainerResources::default();
    let limits = config
        .linux
        .as_ref()
        .and_then(|l| l.resources.as_ref())
        .unwrap_or(&no_resources);
    let (resources, nodes) = resources_and_devices(input, limits, &context, &identity)?;
    let args = process::args(config, image)?;
    let is_init_system = input.handler.init_systems && init_system::is_one(&args);
    let mode = mounts::Mode {
        privileged: context.privileged,
        cgroup_writable: input.handler.cgroup_writable || (is_init_system && input.host.delegates),
        init_system: is_init_system,
        readonly_rootfs: context.readonly_rootfs,
        bind_sys: !input.sandbox.userns.is_empty() && input.sandbox.netns.is_empty(),
    };
    let (mut mounts, propagation) = mounts::mounts(input.mounts, input.volumes, input.files, mode)?;
    let passwd = account(input, &identity, &mut mounts)?;
    localtime(input, &mut mounts)?;

    let user = built(
        "user",
        UserBuilder::default()
            .uid(identity.uid)
            .gid(identity.gid)
            .additional_gids(identity.groups)
            .build(),
    )?;
    let env = process::EnvInput {
        home: &identity.home,
        hostname: &input.sandbox.hostname,
        manager: is_init_system.then_some(init_system::ENVIRONMENT),
    };
    let mut process = built(
        "process",
        ProcessBuilder::default()
            .terminal(config.tty)
            .user(user)
            .args(args)
            .env(process::env(config, image, &env)?)
            .cwd(process::cwd(config, image)?)
            .capabilities(caps.sets)
            .rlimits(input.handler.rlimits.clone())
            .no_new_privileges(context.no_new_privs)
            .oom_score_adj(resources::oom_score_adj(limits)?)
            .build(),
    )?;
    process.set_apparmor_profile(apparmor);
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(input)?)
        .resources(resources)
        .cgroups_path(input.cgroup)
        .devices(nodes)
        .masked_paths(masked)
        .readonly_paths(readonly);
    if let lsm::Selinux::Labels(labels) = &selinux {
        process.set_selinux_label(Some(labels.process.clone()));
        linux = linux.mount_label(labels.files.as_str());
    }
    if let Some((uids, gids)) = id_maps(input.sandbox)? {
        linux = linux.uid_mappings(uids).gid_mappings(gids);
    }
    if let Some(propagation) = propagation {
        linux = linux.rootfs_propagation(propagation);
    }
    if let Some(profile) = seccomp_profile(&context, input, &caps.granted)? {
        linux = linux.seccomp(profile);
    }
    let mut spec = built(
        "specification",
        SpecBuilder::default()
            .version("1.2.1")
            .root(root(context.readonly_rootfs)?)
            .mounts(mounts)
            .process(process.clone())
            .linux(built("linux", linux.build())?)
            .annotations(annotations::all(input))
            .build(),
    )?;
    spec.set_hostname(None);
    Ok(Planned {
        spec,
        process,
        stop_signal: process::stop_signal(config, image, init_system::stop_signal(is_init_system))?,
        passwd,
        notes: notes(&caps.withheld, &selinux),
    })
}

/// What the host withholds.
fn notes(withheld: &[Capability], selinux: &lsm::Selinux) -> Vec<String> {
    let without = (*selinux == lsm::Selinux::WithoutEffect)
        .then(|| "selinux_options are without effect: this node has no SELinux, or it is disabled".to_owned());
    let of = |c: &Capability| format!("capability {c} is not in the daemon's own bounding set");
    withheld.iter().map(of).chain(without).collect()
}

fn seccomp_profile(
    context: &cri::LinuxContainerSecurityContext,
    input: &Input<'_>,
    granted: &HashSet<Capability>,
) -> Result<Option<LinuxSeccomp>, Error> {
    let handler = input.handler;
    if context.privileged {
        return Ok(handler.privileged_seccomp.as_ref().map(|profile| profile.of(granted)));
    }
    Ok(match security::seccomp(context, &handler.default_seccomp)? {
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => Some(match &handler.seccomp {
            Some(profile) => profile.of(granted),
            None => default_profile(granted),
        }),
        Seccomp::Localhost(path) => {
            let profile = input.seccomp.as_ref();
            let profile = profile.ok_or_else(|| Error::invalid(format!("seccomp profile {path} was not read")))?;
            Some(profile.of(granted))
        }
    })
}

fn default_profile(granted: &HashSet<Capability>) -> LinuxSeccomp {
    let mut names: Vec<String> = granted.iter().map(|c| format!("CAP_{c}")).collect();
    names.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    seccomp::default_profile(&names)
}

#[cfg(test)]
mod tests;
