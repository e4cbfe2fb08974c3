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

use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen,
};
use rustix::thread::UnshareFlags;
use spec::Kind;

use crate::error::{Error, sys};

const OPTIONS: [(&str, &str); 3] = [("metacopy", "off"), ("redirect_dir", "nofollow"), ("index", "off")];
/// `fsconfig(2)`: 256 with the zero.
const MAX_VALUE: usize = 255;

/// Mounts `lowers` (top first) below `dir/upper`; with `userns` their ids are those of that user namespace.
pub(crate) fn mount(lowers: &[PathBuf], dir: &Path, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
    let empty = [dir.join("empty")];
    let lowers = if lowers.is_empty() {
        // An image without layers: overlayfs wants at least one lower directory.
        match rustix::fs::mkdir(&empty[0], Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => &empty[..],
            Err(e) => return Err(sys("mkdir", empty[0].display())(e)),
        }
    } else {
        lowers
    };
    match mount_by_context(lowers, dir, userns) {
        Err(error) if error.kind() == Kind::Unimplemented => mount_by_string(lowers, dir, userns),
        other => other,
    }
}

/// A detached copy of the mount that the directory `path` lies on, with its ids mapped.
fn idmapped(path: &Path, userns: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
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

/// The one directory that all `lowers` lie in, in which layers are kept.
fn parent(lowers: &[PathBuf]) -> Option<&Path> {
    let parent = lowers.first()?.parent()?;
    lowers
        .iter()
        .all(|lower| lower.parent() == Some(parent))
        .then_some(parent)
}

fn mount_by_context(lowers: &[PathBuf], dir: &Path, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(sys("fsopen", "overlay"))?;
    // Kept open until the mount is made.
    let mut open: Vec<OwnedFd> = Vec::new();
    // One mapped mount for all layers, however many there are.
    let mapped = userns
        .zip(parent(lowers))
        .map(|(userns, parent)| idmapped(parent, userns));
    let mapped = mapped.transpose()?;
    for lower in lowers {
        match mapped.as_ref().zip(lower.file_name()) {
            Some((tree, name)) => {
                let path = Path::new("/proc/self/fd").join(tree.as_raw_fd().to_string()).join(name);
                fsconfig_set_string(fs.as_fd(), "lowerdir+", path).map_err(|e| explain(&fs, "lowerdir+", e))?;
            }
            None => set_path(&fs, "lowerdir+", lower, &mut open)?,
        }
    }
    set_path(&fs, "upperdir", &dir.join("upper"), &mut open)?;
    set_path(&fs, "workdir", &dir.join("work"), &mut open)?;
    for (key, value) in OPTIONS {
        fsconfig_set_string(fs.as_fd(), key, value).map_err(|e| explain(&fs, key, e))?;
    }
    fsconfig_create(fs.as_fd()).map_err(|e| explain(&fs, "create", e))?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(|e| explain(&fs, "fsmount", e))
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

/// The way of Linux before 6.8.
fn mount_by_string(lowers: &[PathBuf], dir: &Path, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
    let joined = std::thread::scope(|scope| scope.spawn(|| in_own_namespace(lowers, dir, userns)).join());
    joined.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the thread that mounts panicked")))
}

fn in_own_namespace(lowers: &[PathBuf], dir: &Path, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
    // This thread's root, working directory and mounts are its own from here on; its
    // descriptors stay the process's, which is what makes the call sound.
    #[expect(deprecated, reason = "unsafe only with UnshareFlags::FILES, which is not given")]
    rustix::thread::unshare(UnshareFlags::FS | UnshareFlags::NEWNS).map_err(sys("unshare", "mounts"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(sys("make private", "/"))?;
    if let Some((userns, parent)) = userns.zip(parent(lowers)) {
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
    let (upper, work, target) = (open(&dir.join("upper"))?, open(&dir.join("work"))?, open(dir)?);
    let numbers: Vec<String> = below.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let mut data = format!(
        "lowerdir={},upperdir={},workdir={}",
        numbers.join(":"),
        upper.as_raw_fd(),
        work.as_raw_fd()
    );
    for (key, value) in OPTIONS {
        data.push_str(&format!(",{key}={value}"));
    }
    let data = CString::new(data).map_err(|e| Error::caused(Kind::Internal, "mount options", e))?;
    rustix::process::chdir("/proc/self/fd").map_err(sys("chdir", "/proc/self/fd"))?;
    let name = target.as_raw_fd().to_string();
    rustix::mount::mount("overlay", &name, "overlay", MountFlags::empty(), data.as_c_str())
        .map_err(sys("mount overlay at", dir.display()))?;
    // The descriptor from before is below the mount: look the path up again.
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, dir, clone).map_err(sys("open_tree", dir.display()))
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
            let root = way(&lowers, &own, None).unwrap();
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
            let root = way(&lowers, &own, Some(namespace.as_fd())).unwrap();
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
    fn a_filesystem_without_idmapped_mounts_is_named() {
        let namespace = userns(700_000);
        let dir = tempfile::tempdir().unwrap();
        for name in ["upper", "work"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let lowers = [PathBuf::from("/proc/sys/net"), PathBuf::from("/proc/sys/kernel")];
        let error = mount(&lowers, dir.path(), Some(namespace.as_fd())).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(
            error.to_string().contains("/proc/sys does not support idmapped mounts"),
            "{error}"
        );
    }
}
