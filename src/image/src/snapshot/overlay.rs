//! The overlay mount of a snapshot, as a descriptor that is attached nowhere.
//!
//! `fsopen`, one `lowerdir+` for each layer (Linux 6.8; the one string of the old way ends
//! after a page, which is some 40 layers), `fsmount`. A value may have 255 bytes, so longer
//! paths are given by descriptor.
//!
//! Where the kernel knows no `lowerdir+`, one thread of ours goes into a mount namespace of its
//! own, mounts the old way with descriptors for names (`lowerdir=5:6:7`, relative to
//! /proc/self/fd: a page is enough for some 800 layers), and takes a detached copy with it.
//!
//! For a container in a user namespace the layers come by an idmapped mount (overlayfs takes such since Linux 5.19), so
//! that what is root's in the image is its root's; what it writes has the host's ids of its namespace in `upper/`, where
//! a set-user-id program of its root's is nobody's on the host.
//!
//! Options are fixed, because the kernel's defaults differ by distribution: `metacopy=off` and
//! `redirect_dir=nofollow` so that attributes in a layer can redirect nothing, `index=off` so
//! that layers may be shared and a mount can be made again while another lives.
//!
//! What can be written is mounted `volatile` (Linux 5.10): the kernel writes nothing of it back because of a sync. Without,
//! the end of each container waits until its whole filesystem, other containers' data and all, is on the disk
//! (ovl_sync_fs at the unmount). Nothing is lost that would be missed: after a power cut the container is gone, and the
//! layer is deleted. Volumes are mounts of their own and not concerned.

use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use rustix::thread::UnshareFlags;
use spec::Kind;
use sys::path::openat2;

use crate::error::{Error, sys};

const OPTIONS: [(&str, &str); 3] = [("metacopy", "off"), ("redirect_dir", "nofollow"), ("index", "off")];
const VOLATILE: &str = "volatile";
/// The SELinux context of all files of the mount.
const CONTEXT: &str = "context";
/// `fsconfig(2)`: 256 with the zero.
const MAX_VALUE: usize = 255;

/// Whether what is mounted can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Into `dir/upper`, with `dir/work` beside it.
    Write,
    /// There is no upper directory: nothing under the mount can change.
    Read,
}

/// Mounts `lowers` (top first). What else is needed lies in `dir`. With `userns` the ids of the layers are those of
/// that user namespace; what lies in `dir` has them already.
pub(crate) fn mount(
    lowers: &[PathBuf],
    dir: &Path,
    access: Access,
    userns: Option<BorrowedFd<'_>>,
    label: Option<&str>,
) -> Result<OwnedFd, Error> {
    // overlayfs wants at least one lower directory, and two where there is no upper one.
    let least = match access {
        Access::Write => 1,
        Access::Read => 2,
    };
    let mut lowers = lowers.to_vec();
    if lowers.len() < least {
        let empty = dir.join("empty");
        match rustix::fs::mkdir(&empty, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => lowers.push(empty),
            Err(e) => return Err(sys("mkdir", empty.display())(e)),
        }
    }
    match mount_by_context(&lowers, dir, access, userns, label) {
        Err(error) if error.kind() == Kind::Unimplemented => mount_by_string(&lowers, dir, access, userns, label),
        other => other,
    }
}

/// A detached copy of the mount that the directory `path` lies on, with its ids mapped.
pub(super) fn idmapped(path: &Path, userns: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let tree = sys::mount::open_tree(CWD, path, false).map_err(|e| Error::io("open", path.display(), e))?;
    sys::mount::set_idmap(tree.as_fd(), false, userns).map_err(|e| {
        let why = format!(
            "the filesystem of {} does not support idmapped mounts: {e}",
            path.display()
        );
        Error::new(Kind::FailedPrecondition, why)
    })?;
    Ok(tree)
}

/// The one directory that the layers among `lowers` lie in; `dir` holds what is no layer.
fn parent<'a>(lowers: &'a [PathBuf], dir: &Path) -> Option<&'a Path> {
    let mut layers = lowers.iter().filter(|lower| !lower.starts_with(dir));
    let parent = layers.next()?.parent()?;
    layers.all(|lower| lower.parent() == Some(parent)).then_some(parent)
}

fn mount_by_context(
    lowers: &[PathBuf],
    dir: &Path,
    access: Access,
    userns: Option<BorrowedFd<'_>>,
    label: Option<&str>,
) -> Result<OwnedFd, Error> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(sys("fsopen", "overlay"))?;
    // Kept open until the mount is made.
    let mut open: Vec<OwnedFd> = Vec::new();
    // One mapped mount for all layers, however many there are.
    let mapped = userns
        .zip(parent(lowers, dir))
        .map(|(userns, parent)| idmapped(parent, userns));
    let mapped = mapped.transpose()?;
    for lower in lowers {
        let layer = mapped.as_ref().filter(|_| !lower.starts_with(dir));
        match layer.zip(lower.file_name()) {
            Some((tree, name)) => {
                let path = Path::new("/proc/self/fd").join(tree.as_raw_fd().to_string()).join(name);
                fsconfig_set_string(fs.as_fd(), "lowerdir+", path).map_err(|e| explain(&fs, "lowerdir+", e))?;
            }
            None => set_path(&fs, "lowerdir+", lower, &mut open)?,
        }
    }
    if access == Access::Write {
        set_path(&fs, "upperdir", &dir.join("upper"), &mut open)?;
        set_path(&fs, "workdir", &dir.join("work"), &mut open)?;
        forget_volatile(dir)?;
        fsconfig_set_flag(fs.as_fd(), VOLATILE).map_err(|e| explain(&fs, VOLATILE, e))?;
    }
    for (key, value) in OPTIONS.into_iter().chain(label.map(|label| (CONTEXT, label))) {
        fsconfig_set_string(fs.as_fd(), key, value).map_err(|e| explain(&fs, key, e))?;
    }
    fsconfig_create(fs.as_fd()).map_err(|e| explain(&fs, "create", e))?;
    let attributes = match access {
        Access::Write => MountAttrFlags::empty(),
        Access::Read => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| explain(&fs, "fsmount", e))
}

/// Removes the mark by which overlayfs refuses to mount again what was mounted volatile
/// (Documentation/filesystems/overlayfs.rst): what a mount of before was still to write is in the page cache, for all.
fn forget_volatile(dir: &Path) -> Result<(), Error> {
    let mark = dir.join("work/work/incompat");
    match std::fs::remove_dir_all(&mark) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", mark.display(), e)),
        _ => Ok(()),
    }
}

fn set_path(fs: &OwnedFd, key: &str, path: &Path, open: &mut Vec<OwnedFd>) -> Result<(), Error> {
    if path.as_os_str().len() <= MAX_VALUE {
        return fsconfig_set_string(fs.as_fd(), key, path).map_err(|e| explain(fs, key, e));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(sys("open", path.display()))?;
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open.push(fd);
    fsconfig_set_string(fs.as_fd(), key, name).map_err(|e| explain(fs, key, e))
}

/// Runs `work` in a thread with a mount namespace of its own, for what the kernel does not do
/// with a mount that is attached nowhere.
fn in_own_namespace<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let own = || {
        // This thread's root, working directory and mounts are its own from here on; its
        // descriptors stay the process's, which is what makes the call sound.
        #[expect(deprecated, reason = "unsafe only with UnshareFlags::FILES, which is not given")]
        rustix::thread::unshare(UnshareFlags::FS | UnshareFlags::NEWNS).map_err(sys("unshare", "mounts"))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).map_err(sys("make private", "/"))?;
        work()
    };
    let joined = std::thread::scope(|scope| scope.spawn(own).join());
    joined.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the thread that mounts panicked")))
}

/// The way of Linux before 6.8.
fn mount_by_string(
    lowers: &[PathBuf],
    dir: &Path,
    access: Access,
    userns: Option<BorrowedFd<'_>>,
    label: Option<&str>,
) -> Result<OwnedFd, Error> {
    in_own_namespace(|| mount_old(lowers, dir, access, userns, label))
}

fn mount_old(
    lowers: &[PathBuf],
    dir: &Path,
    access: Access,
    userns: Option<BorrowedFd<'_>>,
    label: Option<&str>,
) -> Result<OwnedFd, Error> {
    if let Some((userns, parent)) = userns.zip(parent(lowers, dir)) {
        // Over the layers themselves: until Linux 6.15 overlayfs takes no mount that is attached nowhere.
        let tree = idmapped(parent, userns)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = rustix::fs::open(parent, flags, Mode::empty()).map_err(sys("open", parent.display()))?;
        sys::mount::attach(tree.as_fd(), target.as_fd()).map_err(|e| Error::io("attach", parent.display(), e))?;
    }
    // Opened here: overlayfs takes only directories of the namespace that mounts (5.14).
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty()).map_err(sys("open", path.display()));
    let below = lowers.iter().map(|lower| open(lower)).collect::<Result<Vec<_>, _>>()?;
    let target = open(dir)?;
    let numbers: Vec<String> = below.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let mut data = format!("lowerdir={}", numbers.join(":"));
    let (mut own, mut flags) = (Vec::new(), MountFlags::RDONLY);
    if access == Access::Write {
        flags = MountFlags::empty();
        for (key, name) in [("upperdir", "upper"), ("workdir", "work")] {
            let fd = open(&dir.join(name))?;
            data.push_str(&format!(",{key}={}", fd.as_raw_fd()));
            own.push(fd);
        }
        forget_volatile(dir)?;
        data.push_str(&format!(",{VOLATILE}"));
    }
    for (key, value) in OPTIONS {
        data.push_str(&format!(",{key}={value}"));
    }
    if let Some(label) = label {
        // Between quotes, because a level holds commas.
        data.push_str(&format!(",{CONTEXT}=\"{label}\""));
    }
    let data = CString::new(data).map_err(|e| Error::caused(Kind::Internal, "mount options", e))?;
    rustix::process::chdir("/proc/self/fd").map_err(sys("chdir", "/proc/self/fd"))?;
    let name = target.as_raw_fd().to_string();
    rustix::mount::mount("overlay", &name, "overlay", flags, data.as_c_str())
        .map_err(sys("mount overlay at", dir.display()))?;
    // The descriptor from before is below the mount: look the path up again.
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, dir, clone).map_err(sys("open_tree", dir.display()))
}

/// A directory below a mount that is attached nowhere, as a mount of its own. No link may lead
/// out of the mount, and none that is absolute is followed (openat2 RESOLVE_BENEATH).
pub(crate) fn subtree(mount: &OwnedFd, path: &Path, dir: &Path) -> Result<OwnedFd, Error> {
    let from = beneath(mount, path)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    match rustix::mount::open_tree(&from, "", clone) {
        // Before Linux 6.15 only what is attached can be cloned.
        Err(rustix::io::Errno::INVAL) => subtree_attached(mount, path, dir),
        other => other.map_err(sys("open_tree", path.display())),
    }
}

fn beneath(mount: &OwnedFd, path: &Path) -> Result<OwnedFd, Error> {
    use rustix::io::Errno;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(mount, path, flags, resolve).map_err(|e| {
        let why = match e {
            Errno::NOENT => "is not in the image",
            Errno::NOTDIR => "is no directory in the image",
            Errno::XDEV | Errno::LOOP => "leads out of the image",
            e => return sys("open in the image", path.display())(e),
        };
        Error::new(Kind::InvalidArgument, format!("sub-path {:?} {why}", path.display()))
    })
}

fn subtree_attached(mount: &OwnedFd, path: &Path, dir: &Path) -> Result<OwnedFd, Error> {
    in_own_namespace(|| {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(mount, "", CWD, dir, flags).map_err(sys("attach", dir.display()))?;
        let from = beneath(mount, path)?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        rustix::mount::open_tree(&from, "", clone).map_err(sys("open_tree", path.display()))
    })
}

/// The kernel's own words, which a filesystem context keeps for whoever reads it.
fn explain(fs: &OwnedFd, what: &str, errno: rustix::io::Errno) -> Error {
    let mut words = Vec::new();
    let mut buffer = [0u8; 512];
    // At most a few lines are kept; ENODATA ends them.
    while let Ok(count @ 1..) = rustix::io::read(fs, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..count]).trim().to_owned();
        words.push(line);
        if words.len() == 8 {
            break;
        }
    }
    let error = Error::io("overlay mount:", what, errno.into());
    if words.is_empty() {
        error
    } else {
        Error::new(error.kind(), format!("{error} ({})", words.join("; ")))
    }
    .with_kind(if errno == rustix::io::Errno::INVAL {
        Kind::Unimplemented
    } else {
        Kind::of_io(&errno.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_mount_the_same_and_nothing_on_the_host() {
        for way in [mount_by_context, mount_by_string] {
            let dir = tempfile::tempdir().unwrap();
            let lowers: Vec<PathBuf> = (0..120)
                .map(|at| dir.path().join(format!("{at}-{}", "x".repeat(100))))
                .collect();
            for (at, lower) in lowers.iter().enumerate() {
                std::fs::create_dir(lower).unwrap();
                std::fs::write(lower.join(format!("f{at}")), "below").unwrap();
                std::fs::write(lower.join("all"), at.to_string()).unwrap();
            }
            let own = dir.path().join("snapshot");
            for name in ["", "upper", "work"] {
                std::fs::create_dir(own.join(name)).unwrap();
            }
            let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let root = way(&lowers, &own, Access::Write, None, None).unwrap();
            let read = |name: &str| {
                let fd = rustix::fs::openat(&root, name, OFlags::RDONLY, Mode::empty()).unwrap();
                std::io::read_to_string(std::fs::File::from(fd)).unwrap()
            };
            assert_eq!(
                (read("f0"), read("f119"), read("all")),
                ("below".into(), "below".into(), "0".into())
            );
            let flags = OFlags::CREATE | OFlags::WRONLY;
            let fd = rustix::fs::openat(&root, "new", flags, Mode::RUSR).unwrap();
            rustix::io::write(fd, b"above").unwrap();
            assert_eq!(std::fs::read_to_string(own.join("upper/new")).unwrap(), "above");
            let path = own.to_str().unwrap();
            assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(path) && !before.contains(path));
        }
    }

    #[test]
    fn a_read_only_mount_has_no_upper_and_a_part_of_it_can_be_taken() {
        for way in [mount_by_context, mount_by_string] {
            let dir = tempfile::tempdir().unwrap();
            let lower = dir.path().join("lower");
            std::fs::create_dir_all(lower.join("a/b")).unwrap();
            std::fs::write(lower.join("a/b/file"), "inside").unwrap();
            for (link, to) in [("up", "../.."), ("root", "/"), ("alias", "a")] {
                std::os::unix::fs::symlink(to, lower.join(link)).unwrap();
            }
            let own = dir.path().join("own");
            std::fs::create_dir(&own).unwrap();
            std::fs::create_dir(own.join("empty")).unwrap();
            let whole = || way(&[lower.clone(), own.join("empty")], &own, Access::Read, None, None).unwrap();
            let flags = OFlags::CREATE | OFlags::WRONLY;
            let refused = rustix::fs::openat(whole(), "new", flags, Mode::RUSR).unwrap_err();
            assert_eq!(refused, rustix::io::Errno::ROFS);
            for part in [subtree, subtree_attached] {
                for bad in ["not/there", "a/b/file", "up", "root", "/a", ".."] {
                    let error = part(&whole(), Path::new(bad), &own).unwrap_err();
                    assert!(error.to_string().contains("sub-path"), "{bad}: {error}");
                }
            }
            for part in [subtree, subtree_attached] {
                let part = part(&whole(), Path::new("alias/b"), &own).unwrap();
                let fd = rustix::fs::openat(&part, "file", OFlags::RDONLY, Mode::empty()).unwrap();
                assert_eq!(std::io::read_to_string(std::fs::File::from(fd)).unwrap(), "inside");
                let above = rustix::fs::openat(&part, "../../a", OFlags::PATH, Mode::empty());
                assert_eq!(above.unwrap_err(), rustix::io::Errno::NOENT);
            }
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(own.to_str().unwrap()));
        }
    }

    /// `CLONE_NEWUSER`.
    const NEWUSER: i32 = 0x1000_0000;

    /// A user namespace whose id 0 is `outside`, held by nobody but the descriptor.
    fn userns(outside: u32) -> OwnedFd {
        let (said, saying) = std::io::pipe().unwrap();
        // Its other end stays open in the child, which sleeps until it is killed.
        let (held, _holding) = std::io::pipe().unwrap();
        let child = sys::process::fork(|| {
            use std::io::{Read, Write};
            let made = sys::ns::unshare(NEWUSER);
            let told = (&saying).write_all(&[u8::from(made.is_err())]);
            u8::from(told.is_err() || (&held).read(&mut [0]).is_err())
        })
        .unwrap();
        let mut failed = [1];
        std::io::Read::read_exact(&mut &said, &mut failed).unwrap();
        assert_eq!(failed, [0]);
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{child}/{map}"), format!("0 {outside} 1000\n")).unwrap();
        }
        let namespace = sys::ns::open(Path::new(&format!("/proc/{child}/ns/user"))).unwrap();
        let pidfd = sys::process::pidfd_open(child).unwrap();
        sys::process::pidfd_signal(pidfd.as_fd(), 9).unwrap();
        sys::process::wait(child).unwrap();
        namespace
    }

    #[test]
    fn both_ways_map_the_layers_and_write_with_the_hosts_ids() {
        use std::os::unix::fs::MetadataExt;
        let namespace = userns(700_000);
        for way in [mount_by_context, mount_by_string] {
            let dir = tempfile::tempdir().unwrap();
            let lowers: Vec<PathBuf> = (0..3).map(|at| dir.path().join(format!("layers/{at}"))).collect();
            for (at, lower) in lowers.iter().enumerate() {
                std::fs::create_dir_all(lower).unwrap();
                let file = lower.join(format!("f{at}"));
                std::fs::write(&file, "below").unwrap();
                let owner = u32::try_from(at * 7).unwrap();
                std::os::unix::fs::chown(&file, Some(owner), Some(owner)).unwrap();
            }
            let own = dir.path().join("snapshot");
            for name in ["", "upper", "work"] {
                std::fs::create_dir(own.join(name)).unwrap();
            }
            let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let root = way(&lowers, &own, Access::Write, Some(namespace.as_fd()), None).unwrap();
            let owner = |name: &str| {
                let stat = rustix::fs::statat(&root, name, rustix::fs::AtFlags::empty()).unwrap();
                (stat.st_uid, stat.st_gid)
            };
            assert_eq!(
                ["f0", "f1", "f2"].map(owner),
                [(700_000, 700_000), (700_007, 700_007), (700_014, 700_014)]
            );
            // Copied up, it keeps the ids of the namespace; the layer is as it was.
            let flags = OFlags::WRONLY | OFlags::APPEND;
            let file = rustix::fs::openat(&root, "f1", flags, Mode::empty()).unwrap();
            rustix::io::write(file, b" above").unwrap();
            let above = std::fs::metadata(own.join("upper/f1")).unwrap();
            assert_eq!((above.uid(), above.len()), (700_007, 11));
            let below = std::fs::metadata(lowers[1].join("f1")).unwrap();
            assert_eq!((below.uid(), below.len()), (7, 5));
            let after = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let path = dir.path().to_str().unwrap();
            assert!(!after.contains(path) && !before.contains(path), "{after}");
        }
    }

    #[test]
    fn what_is_no_layer_has_its_ids_already() {
        let namespace = userns(700_000);
        for way in [mount_by_context, mount_by_string] {
            let dir = tempfile::tempdir().unwrap();
            let (layer, own) = (dir.path().join("layers/a"), dir.path().join("own"));
            let top = own.join("top");
            for made in [&layer, &top] {
                std::fs::create_dir_all(made.join("d")).unwrap();
            }
            std::fs::write(layer.join("d/file"), "").unwrap();
            std::os::unix::fs::chown(top.join("d"), Some(700_003), None).unwrap();
            let root = way(&[top, layer], &own, Access::Read, Some(namespace.as_fd()), None).unwrap();
            let owner = |name: &str| {
                rustix::fs::statat(&root, name, rustix::fs::AtFlags::empty())
                    .unwrap()
                    .st_uid
            };
            assert_eq!((owner("d"), owner("d/file")), (700_003, 700_000));
        }
    }

    #[test]
    fn a_filesystem_without_idmapped_mounts_is_named() {
        let namespace = userns(700_000);
        let dir = tempfile::tempdir().unwrap();
        for name in ["upper", "work"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let lowers = [PathBuf::from("/proc/sys/net"), PathBuf::from("/proc/sys/kernel")];
        let error = mount(&lowers, dir.path(), Access::Write, Some(namespace.as_fd()), None).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(
            error.to_string().contains("/proc/sys does not support idmapped mounts"),
            "{error}"
        );
    }
}
