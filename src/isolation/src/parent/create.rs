//! The creator: config.json → plan → cgroup, sources → clone3 of init.
//!
//! Init enters the cgroup by itself, when its mounts are made: what it took to set up is charged to the caller, not
//! to a limit of a few megabytes or a share of the processor that the container may have.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sys::process::{CLONE_PARENT, CloneArgs, clone3};

use super::{Sources, facts, isolate_self, set_oom_score_adj};
use crate::hooks::State;
use crate::plan::Plan;
use crate::plan::hooks::Stage;
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
    keep.extend(req.mounts.iter().map(|(_, fd)| *fd));
    keep.extend(req.seed);
    keep.push(channel.as_fd());
    isolate_self(&keep)?;

    let spec = bundle::read(req.bundle)?;
    let plan = Plan::new(req.id, &spec, &facts()?)?;
    req.stdio.check(plan.process.terminal)?;
    let seccomp = init::seccomp::compile(plan.seccomp.as_ref())?;

    let group = group(req.driver, &plan.cgroup_path)?;
    let mut clamped = plan.clamped.clone();
    clamped.extend(group.unsupported(&plan.resources)?);
    channel.send(&Message::Planned {
        cgroup_path: plan.cgroup_path.clone(),
        uid: plan.process.uid,
        gid: plan.process.gid,
        groups: plan.process.groups.clone(),
        clamped,
        hooks: (plan.hooks.has(&[Stage::Poststart]), plan.hooks.has(&[Stage::Poststop])),
    })?;
    group.apply(&plan.resources)?;
    let owner = plan.cgroup_owner();
    if let Some(uid) = owner {
        group.delegate(uid)?;
    }

    let sources = Sources::open(&plan, &req, &group)?;
    let mut entry = group.entry()?;
    if owner.is_some() && plan.user.is_some() {
        entry = entry.by_writing()?;
    }
    let state = State::new(req.id, req.bundle, &spec);
    let stage = if plan.hooks.want_staging() {
        Some(staging(&plan, req.bundle)?)
    } else {
        None
    };
    set_oom_score_adj(plan.process.oom_score_adj)?;
    if let Some(user) = &plan.user {
        init::stdio::give_ahead(&req.stdio, &plan.process, &user.maps)?;
    }
    let labels = init::label::procfs(&plan.process.labels)?;
    for_children(&plan, &sources, req.seed.filter(|_| stage.is_none()))?;

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
        labels,
        stage,
        state,
    };
    let (pid, _pidfd) = clone3(&args, || init::run(&plan, inherited, channel)).map_err(Error::sys("clone", "init"))?;
    channel.send(&Message::Spawned { pid })
}

/// Where hooks find the root, as `root.path` says; made where the root comes as a descriptor. The root of a user
/// namespace, as which hooks of the container run there, gets a way to it and to config.json.
fn staging(plan: &Plan, bundle: &Path) -> Result<PathBuf, Error> {
    if plan.rootfs.as_os_str().is_empty() {
        return Err(Error::invalid("root.path", "is missing, and hooks need one"));
    }
    let bundle = std::path::absolute(bundle).map_err(Error::sys("find", bundle.display()))?;
    let path = bundle.join(&plan.rootfs);
    match std::fs::create_dir(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::sys("make", path.display())(error));
        }
        _ => {}
    }
    if let Some(user) = &plan.user {
        let (_, gid) = user.maps.root()?;
        for (path, mode) in [(bundle.clone(), 0o710), (bundle.join("config.json"), 0o640)] {
            std::os::unix::fs::chown(&path, None, Some(gid))
                .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)))
                .map_err(Error::sys("open a way to", path.display()))?;
        }
    }
    Ok(path)
}

/// The container's cgroup. A scope of systemd is there already, with the process in it that holds it open.
fn group(driver: cgroup::DriverKind, path: &str) -> Result<cgroup::Cgroup, Error> {
    let host = cgroup::Host::shared()?;
    Ok(match driver {
        cgroup::DriverKind::Cgroupfs => {
            refuse_if_populated(host, path)?;
            host.create(path)?
        }
        cgroup::DriverKind::Systemd => host.open(path)?,
    })
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

/// The namespaces that take effect in children only; the mounts that a new mount namespace copies; and the user
/// namespace, which owns what init is given anew. From here on the creator names no path of the host but in procfs.
fn for_children(plan: &Plan, sources: &Sources, seed: Option<BorrowedFd<'_>>) -> Result<(), Error> {
    for (fd, join) in sources.namespaces_for_children() {
        sys::ns::setns(fd, join.kind).map_err(Error::sys("join", join.path.display()))?;
    }
    if let Some(seed) = seed
        && plan.namespaces.is_new(libc::CLONE_NEWNS)
    {
        sys::ns::setns(seed, libc::CLONE_NEWNS).map_err(Error::sys("join", "the mount namespace to begin from"))?;
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
