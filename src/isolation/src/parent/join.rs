//! The joiner: process JSON → plan → pid namespace of init → clone3. All other namespaces are joined by the new process
//! itself, all at once through init's pidfd; the cgroup's files are opened here, where they can still be seen.

use std::os::fd::{AsFd, OwnedFd};

use sys::process::{CLONE_PARENT, CloneArgs, clone3};

use super::{facts, isolate_self, set_oom_score_adj};
use crate::sync::{Channel, Message};
use crate::{Error, ExecRequest, bundle, init, plan};

/// Runs in the forked joiner; its value is the exit code. `running` is held open by it and by its child until
/// execve.
pub(crate) fn run(req: ExecRequest<'_>, channel: &Channel, running: &OwnedFd) -> u8 {
    match script(req, channel, running) {
        Ok(()) => 0,
        Err(error) => {
            // If the caller is gone, there is nobody to tell.
            drop(channel.send(&Message::failed(&error)));
            1
        }
    }
}

fn script(req: ExecRequest<'_>, channel: &Channel, running: &OwnedFd) -> Result<(), Error> {
    let mut keep = req.stdio.fds();
    keep.extend([req.init, channel.as_fd(), running.as_fd()]);
    isolate_self(&keep)?;

    let process = bundle::process(req.process_json)?;
    let spec = bundle::read(req.bundle)?;
    let mut clamped = Vec::new();
    let user = spec.linux().as_ref().map(plan::userns::plan).transpose()?.flatten();
    let facts = facts()?;
    let mut plan = plan::process::plan(&process, &facts.within(user.as_ref()), true, &mut clamped)?;
    plan.check_mapped(user.as_ref())?;
    req.stdio.check(plan.terminal)?;
    if plan.oom_score_adj.is_none() {
        // As the container itself; clamped the same way.
        let own = spec.process().as_ref().and_then(|process| process.oom_score_adj());
        plan.oom_score_adj = own.map(|own| own.max(facts.oom_score_adj));
    }
    let seccomp = init::seccomp::compile(spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()))?;
    let group = cgroup::Host::shared()?.open(req.cgroup_path)?;
    channel.send(&Message::Planned {
        cgroup_path: req.cgroup_path.to_owned(),
        uid: plan.uid,
        gid: plan.gid,
        groups: Vec::new(),
        clamped,
        hooks: (false, false),
    })?;

    set_oom_score_adj(plan.oom_score_adj)?;
    if let Some(user) = &user {
        init::stdio::give_ahead(&req.stdio, &plan, &user.maps)?;
    }
    sys::ns::setns(req.init, libc::CLONE_NEWPID).map_err(|error| init::join::gone(error, req.init_pid))?;
    let inherited = init::join::Inherited {
        init: req.init,
        init_pid: req.init_pid,
        stdio: req.stdio,
        seccomp,
        userns: user.is_some(),
        keeps_orphans: req.keeps_orphans,
        labels: init::label::procfs(&plan.labels)?,
        keyring: init::keyring_name(plan::keyring(&spec)?, req.cgroup_path),
    };
    // Only a child takes it: here it is still there for another attempt.
    let mut inherited = Some(inherited);
    let mut born = |entry: cgroup::Entry| {
        let born_in = entry.clone_into().map(|fd| fd.try_clone_to_owned()).transpose()?;
        let args = CloneArgs {
            flags: CLONE_PARENT,
            cgroup: born_in.as_ref().map(AsFd::as_fd),
        };
        let child = || match inherited.take() {
            Some(inherited) => init::join::run(&plan, inherited, entry, channel),
            None => 127,
        };
        clone3(&args, child)
    };
    // An init system moves on into a leaf and then divides the cgroup, which the kernel refuses as long as anybody is in
    // it: who comes in between must not be. Where init is gone or elsewhere, the cgroup itself is the place.
    let first = match group.version() {
        cgroup::Version::V2 => group.entry_beside(req.init_pid).or_else(|_| group.entry()),
        cgroup::Version::V1 => group.entry(),
    };
    let mut made = born(first?);
    // It was divided, or its leaf was removed, while we looked.
    if matches!(&made, Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENODEV))) {
        made = born(group.entry_beside(req.init_pid)?);
    }
    let (pid, _pidfd) = made.map_err(Error::sys("clone", "the process"))?;
    channel.send(&Message::Spawned { pid })
}
