//! Everything of the host that init will need, opened while the host can still be seen.
//!
//! A bind mount's source is resolved once, here, to a detached copy of its mount; what is swapped on the host after
//! that changes nothing (CVE-2017-1002101). Init sees no path of the host at all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, StatxFlags, Uid};
use sys::mount::{Attr, Propagation};
use sys::path::Root;

use super::idmap;
use crate::plan::Plan;
use crate::plan::mounts::{Mount, What};
use crate::plan::namespaces::Join;
use crate::plan::userns::User;
use crate::{CreateRequest, Error, init, userns};

/// Descriptors of the host's objects, in the order of the plan.
#[derive(Debug)]
pub(crate) struct Sources {
    /// The root filesystem, detached.
    pub(crate) rootfs: OwnedFd,
    /// For each mount of the plan: the source of a bind mount.
    pub(crate) binds: Vec<Option<OwnedFd>>,
    /// The container's own cgroup directories and the names of their hierarchies; empty where no mount wants them.
    pub(crate) cgroups: Vec<(String, OwnedFd)>,
    /// Whether the one of `cgroups` is the whole v2 tree and not one hierarchy of several.
    pub(crate) unified: bool,
    /// The namespaces to join.
    pub(crate) namespaces: Vec<(OwnedFd, Join)>,
    /// The host's own device nodes, where none can be made.
    pub(crate) devices: Vec<OwnedFd>,
    /// The user namespace.
    pub(crate) user: Option<OwnedFd>,
    /// The `/dev` of a container in a user namespace, with its nodes.
    pub(crate) dev: Option<OwnedFd>,
}

impl Sources {
    pub(super) fn open(plan: &Plan, req: &CreateRequest<'_>, group: &cgroup::Cgroup) -> Result<Self, Error> {
        let wants_cgroups = plan.mounts.iter().any(|mount| mount.what == What::Cgroup);
        let user = plan.user.as_ref().map(user).transpose()?;
        Ok(Self {
            rootfs: rootfs(plan, req)?,
            binds: binds(plan, req, user.as_ref())?,
            dev: if plan.devices.ahead.is_empty() {
                None
            } else {
                dev(plan)?
            },
            user,
            cgroups: if wants_cgroups { cgroups(group)? } else { Vec::new() },
            unified: group.version() == cgroup::Version::V2,
            namespaces: plan.namespaces.join.iter().map(namespace).collect::<Result<_, _>>()?,
            devices: devices(plan)?,
        })
    }

    /// Those that a process does not enter itself.
    pub(super) fn namespaces_for_children(&self) -> impl Iterator<Item = (BorrowedFd<'_>, &Join)> {
        let pid_or_time = |join: &Join| matches!(join.kind, libc::CLONE_NEWPID | sys::ns::NEWTIME);
        self.namespaces
            .iter()
            .filter(move |(_, join)| pid_or_time(join))
            .map(|(fd, join)| (fd.as_fd(), join))
    }

    /// The others.
    pub(crate) fn namespaces_for_init(&self) -> impl Iterator<Item = (BorrowedFd<'_>, &Join)> {
        let pid_or_time = |join: &Join| matches!(join.kind, libc::CLONE_NEWPID | sys::ns::NEWTIME);
        self.namespaces
            .iter()
            .filter(move |(_, join)| !pid_or_time(join))
            .map(|(fd, join)| (fd.as_fd(), join))
    }
}

fn rootfs(plan: &Plan, req: &CreateRequest<'_>) -> Result<OwnedFd, Error> {
    if let Some(fd) = req.rootfs {
        return fd
            .try_clone_to_owned()
            .map_err(Error::sys("duplicate", "the root filesystem"));
    }
    if plan.reaper && plan.rootfs.as_os_str().is_empty() {
        // The reaper needs no file: an empty tree that nobody can write to.
        let tmpfs = || sys::mount::Context::open("tmpfs")?.mount(sys::mount::NOSUID | sys::mount::NODEV);
        return tmpfs().map_err(Error::sys("mount", "an empty root filesystem"));
    }
    if plan.rootfs.as_os_str().is_empty() {
        return Err(Error::invalid("root.path", "is missing"));
    }
    let path = req.bundle.join(&plan.rootfs);
    let tree = sys::mount::open_tree(CWD, &path, true).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::state(format!("root.path {}", path.display()), "does not exist"),
        _ => Error::sys("open", path.display())(source),
    })?;
    let private = Attr {
        propagation: Some(Propagation::Private),
        ..Attr::default()
    };
    sys::mount::set_attr(tree.as_fd(), true, private).map_err(Error::sys("make private", path.display()))?;
    Ok(tree)
}

/// The sources of the bind mounts: as given, or opened and their ids mapped. Those that are given come mapped.
fn binds(plan: &Plan, req: &CreateRequest<'_>, user: Option<&OwnedFd>) -> Result<Vec<Option<OwnedFd>>, Error> {
    for (place, _) in &req.mounts {
        if !matches!(plan.mounts.get(*place), Some(mount) if matches!(mount.what, What::Bind { .. })) {
            let field = format!("mounts[{place}]");
            return Err(Error::invalid(
                field,
                "is no bind mount, and yet its source came with the request",
            ));
        }
    }
    let source = |(place, mount): (usize, &Mount)| match req.mounts.iter().find(|(given, _)| *given == place) {
        Some((_, fd)) => {
            let object = || format!("the source of mounts[{}]", mount.target.display());
            fd.try_clone_to_owned()
                .map(Some)
                .map_err(Error::sys("duplicate", object()))
        }
        None => {
            let tree = bind(mount, req.bundle)?;
            if let (Some(tree), Some(map)) = (&tree, &mount.idmap) {
                idmap::set(tree, mount, map, plan.user.as_ref().zip(user))?;
            }
            Ok(tree)
        }
    };
    plan.mounts.iter().enumerate().map(source).collect()
}

fn bind(mount: &Mount, bundle: &Path) -> Result<Option<OwnedFd>, Error> {
    let What::Bind { source, recursive } = &mount.what else {
        return Ok(None);
    };
    let path = bundle.join(source);
    let object = || format!("mounts[{}]: source {}", mount.target.display(), path.display());
    let tree = sys::mount::open_tree(CWD, &path, *recursive).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::state(object(), "does not exist"),
        _ => Error::sys("open", object())(source),
    })?;
    if matches!(mount.propagation.0, Propagation::Shared | Propagation::Slave) {
        check_propagation(&path, mount.propagation.0).map_err(|why| Error::state(object(), why))?;
    }
    Ok(Some(tree))
}

/// Propagation that the source does not have cannot be had: better an error than mounts that never arrive.
fn check_propagation(path: &Path, wanted: Propagation) -> Result<(), String> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).map_err(|e| e.to_string())?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    let id = stat.stx_mnt_id.to_string();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').next() == Some(&id))
        .unwrap_or_default();
    let (fields, _) = line.split_once(" - ").unwrap_or_default();
    let has = |tag: &str| fields.split(' ').skip(6).any(|field| field.starts_with(tag));
    match wanted {
        Propagation::Shared if !has("shared:") => Err("is not on a shared mount".to_owned()),
        Propagation::Slave if !has("shared:") && !has("master:") => {
            Err("is neither on a shared nor on a slave mount".to_owned())
        }
        _ => Ok(()),
    }
}

fn namespace(join: &Join) -> Result<(OwnedFd, Join), Error> {
    let fd = sys::ns::open(&join.path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::state(format!("namespace {}", join.path.display()), "does not exist"),
        _ => Error::sys("open", format!("namespace {}", join.path.display()))(source),
    })?;
    Ok((fd, join.clone()))
}

/// The user namespace: the one of a file, or a new one.
fn user(user: &User) -> Result<OwnedFd, Error> {
    match &user.join {
        Some(path) => {
            let kind = libc::CLONE_NEWUSER;
            namespace(&Join {
                kind,
                path: path.clone(),
            })
            .map(|(fd, _)| fd)
        }
        None => userns::make(&user.maps),
    }
}

/// The `/dev` of the plan, mounted here, where nodes on it can be made and opened, and given to the container's root.
fn dev(plan: &Plan) -> Result<Option<OwnedFd>, Error> {
    let Some(user) = &plan.user else { return Ok(None) };
    let Some(mount) = plan.mounts.iter().find(|mount| mount.target == Path::new("/dev")) else {
        return Ok(None);
    };
    let made = init::mounts::filesystem(mount, plan.mount_label.as_deref())?;
    let (uid, gid) = user.maps.root()?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(&made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
        .map_err(Error::sys("change the owner of", "/dev"))?;
    let root = Root::from_fd(made);
    init::devices::make_ahead(&root, &plan.devices)?;
    Ok(Some(root.into_fd()))
}

fn cgroups(group: &cgroup::Cgroup) -> Result<Vec<(String, OwnedFd)>, Error> {
    let mut out = Vec::new();
    for (mount, dir) in group.dirs() {
        let name = mount
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        match sys::mount::open_tree(CWD, dir, false) {
            Ok(tree) => out.push((name, tree)),
            // The v2 tree beside v1 is optional.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::sys("open", dir.display())(error)),
        }
    }
    Ok(out)
}

fn devices(plan: &Plan) -> Result<Vec<OwnedFd>, Error> {
    let open =
        |path: &PathBuf| sys::mount::open_tree(CWD, path, false).map_err(Error::sys("open the host's", path.display()));
    plan.devices.bound.iter().map(|node| open(&node.path)).collect()
}
