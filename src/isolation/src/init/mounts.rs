//! The mounts of the plan, in its order: made detached, given their attributes, attached to a descriptor of the target.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;
use sys::mount::{self, Attr, Context, NODEV, NOEXEC, NOSUID, Propagation, RDONLY};
use sys::path::{Links, Root, file_type};

use super::copy_up;
use crate::Error;
use crate::parent::Sources;
use crate::plan::Plan;
use crate::plan::mounts::{Mount, What, allowed_in_proc};

const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// procfs and sysfs of the plan, not attached yet; made while the host's own are still in sight. In a user namespace
/// the kernel gives nobody more of them than what is already seen unobstructed (`mount_too_revealing`).
pub(super) fn kernel(plan: &Plan) -> Result<Vec<Option<OwnedFd>>, Error> {
    let one = |mount: &Mount| match &mount.what {
        What::Fs { fs, .. } if matches!(fs.as_str(), "proc" | "sysfs") => filesystem(mount, None).map(Some),
        _ => Ok(None),
    };
    plan.mounts.iter().map(one).collect()
}

pub(super) fn make(root: &Root, plan: &Plan, sources: &mut Sources, kernel: Vec<Option<OwnedFd>>) -> Result<(), Error> {
    let binds = std::mem::take(&mut sources.binds);
    for ((mount, source), kernel) in plan.mounts.iter().zip(binds).zip(kernel) {
        match (&mount.what, source) {
            (What::Fs { copy_up: true, .. }, _) => copied_up(root, mount, plan.mount_label.as_deref())?,
            (What::Fs { .. }, _) => {
                let ahead = if mount.target == Path::new("/dev") {
                    sources.dev.take()
                } else {
                    kernel
                };
                let made = ahead.map_or_else(|| filesystem(mount, plan.mount_label.as_deref()), Ok)?;
                attach(root, mount, made.as_fd(), true)?;
            }
            (What::Bind { recursive, .. }, Some(source)) => bind(root, mount, &source, *recursive)?,
            (What::Bind { .. }, None) => return Err(Error::state(name(mount), "has no source")),
            (What::Cgroup, _) => cgroups(root, mount, sources)?,
        }
    }
    Ok(())
}

fn name(mount: &Mount) -> String {
    format!("mounts[{}]", mount.target.display())
}

/// The filesystem of a mount that is none of the host's, not attached yet.
pub(crate) fn filesystem(mount: &Mount, label: Option<&str>) -> Result<OwnedFd, Error> {
    let What::Fs {
        fs, source, options, ..
    } = &mount.what
    else {
        return Err(Error::state(name(mount), "is no filesystem"));
    };
    let build = || {
        let context = Context::open(fs)?;
        // The kernel's own trees have contexts by its policy.
        if let (Some(label), false) = (label, matches!(fs.as_str(), "proc" | "sysfs" | "mqueue")) {
            context.set("context", label)?;
        }
        if let Some(source) = source {
            context.set("source", source)?;
        }
        for (key, value) in options {
            match value {
                Some(value) => context.set(key, value)?,
                None => context.flag(key)?,
            }
        }
        context.mount(mount.attr.set)
    };
    let made = build().map_err(Error::sys("mount", format!("{fs} for {}", name(mount))))?;
    let tree = Attr {
        propagation: Some(mount.propagation.0),
        ..mount.tree_attr
    };
    // A new mount is private already.
    if mount.propagation.0 != Propagation::Private || mount.tree_attr != Attr::default() {
        mount::set_attr(made.as_fd(), true, tree).map_err(Error::sys("set attributes of", name(mount)))?;
    }
    Ok(made)
}

fn bind(root: &Root, mount: &Mount, source: &OwnedFd, recursive: bool) -> Result<(), Error> {
    let set = |whole: bool, attr: Attr| {
        if attr == Attr::default() {
            return Ok(());
        }
        mount::set_attr(source.as_fd(), whole, attr).map_err(Error::sys("set attributes of", name(mount)))
    };
    let (propagation, whole) = mount.propagation;
    let propagation = Attr {
        propagation: Some(propagation),
        ..Attr::default()
    };
    if recursive && (whole || mount.tree_attr != Attr::default()) {
        set(
            true,
            Attr {
                propagation: propagation.propagation.filter(|_| whole),
                ..mount.tree_attr
            },
        )?;
        set(
            false,
            Attr {
                propagation: propagation.propagation.filter(|_| !whole),
                ..mount.attr
            },
        )?;
    } else {
        let tree = mount.tree_attr;
        let set_both = tree.set | mount.attr.set;
        set(
            false,
            Attr {
                set: set_both,
                clear: (tree.clear | mount.attr.clear) & !set_both | clear_atime(set_both),
                ..propagation
            },
        )?;
    }
    let is_dir =
        file_type(source.as_fd()).map_err(Error::sys("stat the source of", name(mount)))? == FileType::Directory;
    attach(root, mount, source.as_fd(), is_dir)
}

/// The access time field has to be cleared as a whole where a part of it is set.
fn clear_atime(set: u64) -> u64 {
    if set & mount::ATIME == 0 { 0 } else { mount::ATIME }
}

/// A file system that begins with what is in its place; one that is to be read only is so afterwards.
fn copied_up(root: &Root, mount: &Mount, label: Option<&str>) -> Result<(), Error> {
    let mut writable = mount.clone();
    writable.attr.set &= !RDONLY;
    writable.tree_attr.set &= !RDONLY;
    let made = filesystem(&writable, label)?;
    let place = target(root, mount, true)?;
    if let What::Fs { options, .. } = &mount.what {
        copy_up::copy(place.as_fd(), made.as_fd(), options, &name(mount))?;
    }
    let late = Attr {
        set: (mount.attr.set | mount.tree_attr.set) & RDONLY,
        ..Attr::default()
    };
    if late != Attr::default() {
        mount::set_attr(made.as_fd(), false, late).map_err(Error::sys("set attributes of", name(mount)))?;
    }
    mount::attach(made.as_fd(), place.as_fd()).map_err(Error::sys("attach", name(mount)))
}

fn attach(root: &Root, mount: &Mount, made: BorrowedFd<'_>, is_dir: bool) -> Result<(), Error> {
    let target = target(root, mount, is_dir)?;
    mount::attach(made, target.as_fd()).map_err(Error::sys("attach", name(mount)))
}

/// What a mount goes over, made where it is not there.
fn target(root: &Root, mount: &Mount, is_dir: bool) -> Result<OwnedFd, Error> {
    let found = if is_dir {
        root.mkdir_all(&mount.target, 0o755, mount.links())
    } else {
        root.make_file(&mount.target, 0o644, mount.links())
    };
    let target = found.map_err(|source| match source.raw_os_error() {
        Some(libc::ELOOP) => Error::state(name(mount), "the image has a symbolic link there: refused"),
        _ => Error::sys("make the target of", name(mount))(source),
    })?;
    // A link of the image may have led a volume to procfs.
    let fs = rustix::fs::fstatfs(&target).map_err(Error::sys("stat the target of", name(mount)))?;
    if fs.f_type.cast_unsigned() == PROC_SUPER_MAGIC && !allowed_in_proc(&mount.target) {
        return Err(Error::state(name(mount), "leads into /proc: refused"));
    }
    Ok(target)
}

/// v2: the cgroup's directory itself. v1: a tmpfs with one directory for each hierarchy, as the host has it.
fn cgroups(root: &Root, mount: &Mount, sources: &mut Sources) -> Result<(), Error> {
    let trees = std::mem::take(&mut sources.cgroups);
    if sources.unified && trees.len() == 1 {
        for (_, tree) in &trees {
            bind(root, mount, tree, false)?;
        }
        return Ok(());
    }
    let build = || {
        let context = Context::open("tmpfs")?;
        context.set("mode", "755")?;
        context.mount(NOSUID | NODEV | NOEXEC)
    };
    let top = build().map_err(Error::sys("mount", format!("tmpfs for {}", name(mount))))?;
    attach(root, mount, top.as_fd(), true)?;
    let dir = Root::from_fd(top);
    for (hierarchy, tree) in &trees {
        let object = || format!("{}/{hierarchy}", name(mount));
        let target = dir
            .mkdir_all(hierarchy, 0o755, Links::Refuse)
            .map_err(Error::sys("make", object()))?;
        let attr = Attr {
            propagation: Some(Propagation::Private),
            ..mount.attr
        };
        mount::set_attr(tree.as_fd(), false, attr).map_err(Error::sys("set attributes of", object()))?;
        mount::attach(tree.as_fd(), target.as_fd()).map_err(Error::sys("attach", object()))?;
        // "cpu,cpuacct" is known by each of its names.
        for part in hierarchy.split(',').filter(|part| part != hierarchy) {
            rustix::fs::symlinkat(Path::new(hierarchy), &dir, part).map_err(Error::sys("link", object()))?;
        }
    }
    mount::set_attr(dir.as_fd(), false, mount.attr).map_err(Error::sys("set attributes of", name(mount)))
}
