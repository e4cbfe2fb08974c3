//! The first process of a new container: from clone3 to execve. One thread; an error goes up `sync` and ends it.
//!
//!  1. session; in a user namespace (which the creator has entered already) its root; other namespaces joined;
//!     procfs and sysfs mounted, attached nowhere
//!  2. the root filesystem attached, **pivot**: from here on no path of the host can be named at all
//!  3. mounts, devices, terminal, working directory made: through the new root's handle
//!  4. host name, sysctls, masked and read-only paths, read-only root
//!  5. its cgroups entered; cgroup namespace
//!  6. scheduling, keyring, standard streams, signals, limits
//!  7. no_new_privs, bounding set, groups, ids, capabilities, working directory, umask
//!  8. `Ready`; wait for `Start`
//!  9. seccomp, execve: nothing between them but the search for the program
//!
//! Pivoting *before* the mounts is what sets this apart from older runtimes: a link in the image resolves inside the
//! image, because nothing else is there (CVE-2021-30465, CVE-2025-52565, CVE-2026-41579 and their kin).
//! Everything of the host that is needed is in [`Inherited`], as descriptors.
//!
//! Hooks of before the pivot need to find the root below the bundle, and the host around it. For a container that has
//! some, the root is attached there first, 3 is done through its handle, which no link leaves either, then the hooks run,
//! then it is pivoted to.
//!
//! seccomp comes last also without `no_new_privs`: `CAP_SYS_ADMIN`, which loading then takes, is kept in the
//! permitted and effective sets up to execve, which computes both anew from the bounding, inheritable and ambient
//! sets. So a profile may refuse setresuid, capset or prctl, and the process still starts.

mod console;
mod copy_up;
mod cwd;
pub(crate) mod devices;
mod execve;
mod identity;
pub(crate) mod join;
pub(crate) mod label;
mod limits;
mod masks;
pub(crate) mod mounts;
mod namespaces;
pub(crate) mod reaper;
mod rootfs;
pub(crate) mod seccomp;
pub(crate) mod stdio;
pub(crate) mod sysctl;

use std::ffi::CString;
use std::path::PathBuf;

use ::seccomp::Program;
use sys::procfs::Procfs;

use crate::hooks::{self, State};
use crate::parent::Sources;
use crate::plan::Plan;
use crate::plan::hooks::Stage;
use crate::sync::{Channel, Message};
use crate::{Error, Stdio};

/// What the creator hands on beside the plan.
pub(crate) struct Inherited {
    pub(crate) sources: Sources,
    pub(crate) stdio: Stdio,
    pub(crate) seccomp: Option<Program>,
    pub(crate) entry: cgroup::Entry,
    /// The host's procfs, where labels are written.
    pub(crate) labels: Option<Procfs>,
    /// Where the root is seen while hooks of before the pivot run.
    pub(crate) stage: Option<PathBuf>,
    /// What hooks are told.
    pub(crate) state: State,
}

/// Runs in the new process; returns only where it failed, with the exit code.
pub(crate) fn run(plan: &Plan, inherited: Inherited, channel: &Channel) -> u8 {
    match script(plan, inherited, channel) {
        Ok(code) => code,
        Err(error) => {
            channel.write_failure(&error);
            127
        }
    }
}

fn script(plan: &Plan, inherited: Inherited, channel: &Channel) -> Result<u8, Error> {
    let Inherited {
        mut sources,
        stdio,
        seccomp,
        entry,
        labels,
        stage,
        state,
    } = inherited;
    let process = &plan.process;
    rustix::process::setsid().map_err(Error::sys("make", "session"))?;
    if plan.user.is_some() {
        identity::become_root()?;
    }
    namespaces::join(&sources)?;

    let kernel = mounts::kernel(plan)?;
    let proc = sysctl::needs_procfs(&plan.sysctls)?;
    let root = match &stage {
        None => rootfs::enter(&sources.rootfs)?,
        Some(stage) => rootfs::stage(&sources.rootfs, stage)?,
    };
    mounts::make(&root, plan, &mut sources, kernel)?;
    devices::make(&root, &plan.devices, &sources.devices)?;
    let console = console::open(&root, process, channel)?;
    if let Some(console) = &console {
        console::bind(&root, console)?;
    }
    cwd::make(&root, &process.cwd)?;
    let root = match &stage {
        None => root,
        Some(_) => {
            before_pivot(plan, &state, channel)?;
            rootfs::pivot(&sources.rootfs)?
        }
    };

    namespaces::name(plan)?;
    if let Some(proc) = &proc {
        sysctl::write(&plan.sysctls, proc)?;
    }
    masks::mask(&root, &plan.masked)?;
    masks::make_readonly(&root, &plan.readonly)?;
    rootfs::finish(plan)?;

    entry.enter()?;
    namespaces::cgroup(&plan.namespaces)?;

    limits::schedule(process)?;
    limits::persona(plan.personality)?;
    join_keyring(keyring_name(plan.keyring, &plan.cgroup_path).as_ref())?;
    stdio::install(stdio, console, process)?;
    sys::signal::reset().map_err(Error::sys("reset", "signals"))?;
    limits::set(process)?;
    label::set(&process.labels, labels.as_ref())?;
    identity::assume(process, seccomp.is_some() && !process.no_new_privs)?;
    cwd::enter(&root, &process.cwd)?;
    sys::cred::set_umask(process.umask);
    let program = if plan.reaper {
        None
    } else {
        Some(execve::prepare(process)?)
    };
    sys::process::cloexec_from(3).map_err(Error::sys("mark", "descriptors close-on-exec"))?;

    channel.send(&Message::Ready)?;
    if channel.receive()?.is_none() {
        // The caller is gone or does not want us: nothing to report to nobody.
        return Ok(0);
    }
    for hook in plan.hooks.of(&[Stage::StartContainer]) {
        hooks::one(hook, &state, sys::process::own_pid())?;
    }
    seccomp::load(seccomp.as_ref())?;
    match program {
        Some(program) => Err(program.run()),
        None => match reaper::run()? {},
    }
}

/// The hooks of the host, which the caller runs, then those of the container, which are ours.
fn before_pivot(plan: &Plan, state: &State, channel: &Channel) -> Result<(), Error> {
    if plan.hooks.has(&[Stage::Prestart, Stage::CreateRuntime]) {
        channel.send(&Message::Hooks)?;
        if channel.receive()?.is_none() {
            return Err(Error::state("the caller", "is gone"));
        }
    }
    let mut ours = plan.hooks.of(&[Stage::CreateContainer]);
    ours.try_for_each(|hook| hooks::one(hook, state, sys::process::own_pid()))
}

/// The session keyring of a container, by the last component of its cgroup: its id. None where it is not to have one.
pub(crate) fn keyring_name(own: bool, cgroup_path: &str) -> Option<CString> {
    let id = cgroup_path.rsplit('/').next().unwrap_or_default();
    own.then(|| CString::new(format!("_ses.{id}")).unwrap_or_default())
}

/// Leaves the session keyring of the host, unless it is to be shared.
fn join_keyring(name: Option<&CString>) -> Result<(), Error> {
    let Some(name) = name else { return Ok(()) };
    match sys::keyring::join_session(name) {
        // A kernel without keys has none to leak.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map_err(Error::sys("join", "session keyring")),
    }
}
