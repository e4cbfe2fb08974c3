//! A second process in a container: its own list of steps, the same steps.
//!
//!  1. all namespaces of init at once, by its pidfd: from here on the root is the container's
//!  2. session, terminal
//!  3. the container's cgroups entered
//!  4. scheduling, keyring, standard streams, signals, limits
//!  5. identity, working directory, umask
//!  6. seccomp, execve

use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;

use ::seccomp::Program;
use sys::path::Root;
use sys::procfs::Procfs;

use super::{console, cwd, execve, identity, join_keyring, label, limits, seccomp, stdio};
use crate::plan::process::Process;
use crate::sync::Channel;
use crate::{Error, Stdio};

/// What the joiner hands on beside the plan.
pub(crate) struct Inherited<'a> {
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) init_pid: i32,
    pub(crate) stdio: Stdio,
    pub(crate) seccomp: Option<Program>,
    /// Whether the container has a user namespace of its own: joining one's own is EINVAL.
    pub(crate) userns: bool,
    pub(crate) keeps_orphans: bool,
    /// The host's procfs, where labels are written.
    pub(crate) labels: Option<Procfs>,
    /// The container's session keyring, where it has one of its own.
    pub(crate) keyring: Option<CString>,
}

/// Runs in the new process; returns only where it failed, with the exit code.
pub(crate) fn run(process: &Process, inherited: Inherited<'_>, entry: cgroup::Entry, channel: &Channel) -> u8 {
    let error = match script(process, inherited, entry, channel) {
        Ok(program) => program.run(),
        Err(error) => error,
    };
    channel.write_failure(&error);
    127
}

/// For `map_err`: setns(2) by the pidfd of an init that has ended says ESRCH.
pub(crate) fn gone(error: io::Error, init_pid: i32) -> Error {
    match error.raw_os_error() {
        Some(libc::ESRCH) => Error::state(format!("the container (init {init_pid})"), "has ended"),
        _ => Error::sys("join the namespaces of", format!("init {init_pid}"))(error),
    }
}

fn script(
    process: &Process,
    inherited: Inherited<'_>,
    entry: cgroup::Entry,
    channel: &Channel,
) -> Result<execve::Program, Error> {
    let Inherited {
        init,
        init_pid,
        stdio,
        seccomp: filter,
        userns,
        keeps_orphans,
        labels,
        keyring,
    } = inherited;
    let user = if userns { libc::CLONE_NEWUSER } else { 0 };
    let kinds =
        libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    let kinds = kinds | user;
    let joined = match sys::ns::setns(init, kinds | sys::ns::NEWTIME) {
        // A kernel without time namespaces has none to join.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => sys::ns::setns(init, kinds),
        other => other,
    };
    joined.map_err(|error| gone(error, init_pid))?;
    if userns {
        identity::become_root()?;
    }
    rustix::process::setsid().map_err(Error::sys("make", "session"))?;
    let root = Root::open("/").map_err(Error::sys("open", "the container's root"))?;
    let console = console::open(&root, process, channel)?;

    entry.enter()?;
    limits::schedule(process)?;
    join_keyring(keyring.as_ref())?;
    stdio::install(stdio, console, process)?;
    sys::signal::reset().map_err(Error::sys("reset", "signals"))?;
    if keeps_orphans {
        // It outlives execve and is not inherited (prctl(2)).
        sys::prctl::set_child_subreaper(true).map_err(Error::sys("keep", "orphans"))?;
    }
    limits::set(process)?;
    label::set(&process.labels, labels.as_ref())?;
    identity::assume(process, filter.is_some() && !process.no_new_privs)?;
    cwd::enter(&root, &process.cwd)?;
    sys::cred::set_umask(process.umask);
    let program = execve::prepare(process)?;
    sys::process::cloexec_from(3).map_err(Error::sys("mark", "descriptors close-on-exec"))?;
    seccomp::load(filter.as_ref())?;
    Ok(program)
}
