//! The creator: config.json → plan → cgroup, sources → clone3 of init.
//!
//! Init enters the cgroup by itself, when its mounts are made: what it took to set up is charged to the caller, not
//! to a limit of a few megabytes or a share of the processor that the container may have.
//!
//! systemd starts a scope with a process in it or not at all: until init is born there, a stand-in keeps it.

use std::os::fd::AsFd;

use spec::runtime::LinuxResources;
use sys::process::{CLONE_PARENT, CloneArgs, clone3};

use super::stand_in::StandIn;
use super::{Sources, facts, isolate_self, set_oom_score_adj};
use crate::plan::Plan;
use crate::sync::{Channel, Message};
use crate::{CreateRequest, Error, bundle, init, userns};

/// Runs in the forked creator; its value is the exit code.
pub(crate) fn run(req: CreateRequest<'_>, channel: &Channel) -> u8 {
    match script(req, channel) {
        Ok(()) => 0,
        Err(error) => {
            // If the caller is gone, there is nobody to tell.
            drop(channel.send(&Message::failed(&error)));
            1
        }
    }
}

fn script(req: CreateRequest<'_>, channel: &Channel) -> Result<(), Error> {
    let mut keep = req.stdio.fds();
    keep.extend(req.rootfs);
    keep.push(channel.as_fd());
    isolate_self(&keep)?;

    let spec = bundle::read(req.bundle)?;
    let plan = Plan::new(req.id, &spec, &facts()?)?;
    req.stdio.check(plan.process.terminal)?;
    let seccomp = init::seccomp::compile(plan.seccomp.as_ref())?;

    let host = cgroup::Host::shared()?;
    refuse_if_populated(host, &plan.cgroup_path)?;
    let (group, stand_in) = match req.driver {
        cgroup::DriverKind::Cgroupfs => (host.create(&plan.cgroup_path)?, None),
        cgroup::DriverKind::Systemd => {
            let stand_in = StandIn::start()?;
            let description = format!("container {}", req.id);
            let group = cgroup::systemd::start_scope(host, &plan.cgroup_path, stand_in.pid(), &description)?;
            (group, Some(stand_in))
        }
    };
    let mut clamped = plan.clamped.clone();
    clamped.extend(group.unsupported(&plan.resources)?);
    channel.send(&Message::Planned {
        cgroup_path: plan.cgroup_path.clone(),
        uid: plan.process.uid,
        gid: plan.process.gid,
        groups: plan.process.groups.clone(),
        clamped,
    })?;
    // A stand-in would be counted: of the limits, that on processes comes when it is gone.
    let (first, last) = match stand_in {
        None => (plan.resources.clone(), None),
        Some(_) => without_pids(&plan.resources),
    };
    req.driver.apply(&group, &first)?;

    let sources = Sources::open(&plan, &req, &group)?;
    let entry = group.entry()?;
    set_oom_score_adj(plan.process.oom_score_adj)?;
    if let Some(user) = &plan.user {
        init::stdio::give_ahead(&req.stdio, &plan.process, &user.maps)?;
    }
    for_children(&plan, &sources)?;

    // The cgroup namespace is made later, inside the cgroup; time cannot be asked of clone3 and is made above.
    let later = libc::CLONE_NEWCGROUP | sys::ns::NEWTIME;
    let flags = CLONE_PARENT | u64::from((plan.namespaces.new & !later).cast_unsigned());
    let born_in = entry.clone_into().map(|fd| fd.try_clone_to_owned()).transpose();
    let born_in = born_in.map_err(Error::sys("duplicate", "the cgroup's descriptor"))?;
    let args = CloneArgs {
        flags,
        cgroup: born_in.as_ref().map(AsFd::as_fd),
    };
    let inherited = init::Inherited {
        sources,
        stdio: req.stdio,
        seccomp,
        entry,
    };
    let (pid, _pidfd) = clone3(&args, || init::run(&plan, inherited, channel)).map_err(Error::sys("clone", "init"))?;
    channel.send(&Message::Spawned { pid })?;
    drop(stand_in);
    last.map_or(Ok(()), |last| Ok(req.driver.apply(&group, &last)?))
}

/// Limits but for that on processes, and that one alone.
fn without_pids(limits: &LinuxResources) -> (LinuxResources, Option<LinuxResources>) {
    let (mut first, mut last) = (limits.clone(), LinuxResources::default());
    first.set_pids(None);
    // An empty set of device rules is a set of rules: it must not follow the true one.
    last.set_devices(None);
    last.set_pids(*limits.pids());
    let any = last.pids().is_some();
    (first, any.then_some(last))
}

/// A cgroup with processes belongs to somebody who lives.
fn refuse_if_populated(host: &cgroup::Host, path: &str) -> Result<(), Error> {
    match host.open(path) {
        Ok(group) if !group.procs()?.is_empty() => Err(Error::state(
            format!("cgroup {path}"),
            "has processes already: the container exists",
        )),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == spec::Kind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The namespaces that take effect in children only, and the user namespace, which owns what init is given anew.
fn for_children(plan: &Plan, sources: &Sources) -> Result<(), Error> {
    for (fd, join) in sources.namespaces_for_children() {
        sys::ns::setns(fd, join.kind).map_err(Error::sys("join", join.path.display()))?;
    }
    // Last of what is done as the host's root: all that is made from here on belongs to the user namespace.
    if let Some(user) = &sources.user {
        userns::enter(user)?;
    }
    if plan.namespaces.is_new(sys::ns::NEWTIME) {
        sys::ns::unshare(sys::ns::NEWTIME).map_err(Error::sys("make", "time namespace"))?;
        if let Some(offsets) = &plan.time_offsets {
            let file = "/proc/self/timens_offsets";
            std::fs::write(file, offsets).map_err(Error::sys("write", file))?;
        }
    }
    Ok(())
}
