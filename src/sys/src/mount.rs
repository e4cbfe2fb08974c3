//! Mounts by the descriptor API: a mount is made detached, given its attributes, and only then attached.
//!
//! Order that holds for every mount: [`Context`] or [`open_tree`] → [`set_attr`] → [`attach`]. Nothing is ever
//! visible with attributes that it is not meant to keep. rustix wraps all of it but `mount_setattr` (Linux 5.12).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::call::check_long;

/// Attributes of one mount, `MOUNT_ATTR_*` of mount_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attr {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// The propagation to take on, if any.
    pub propagation: Option<Propagation>,
}

/// Read-only.
pub const RDONLY: u64 = 0x01;
/// Set-user-id bits and file capabilities are ignored.
pub const NOSUID: u64 = 0x02;
/// Device nodes cannot be opened.
pub const NODEV: u64 = 0x04;
/// Nothing on it can be executed.
pub const NOEXEC: u64 = 0x08;
/// The field of the access time modes; to be cleared when one of them is set.
pub const ATIME: u64 = 0x70;
/// Access times follow `relatime`, the default; zero, so it is set by clearing the field.
pub const RELATIME: u64 = 0x00;
/// Access times are not written.
pub const NOATIME: u64 = 0x10;
/// Access times are always written.
pub const STRICTATIME: u64 = 0x20;
/// Access times of directories are not written.
pub const NODIRATIME: u64 = 0x80;
/// Ids are mapped through a user namespace.
pub const IDMAP: u64 = 0x0010_0000;
/// Links on it are not followed (Linux 5.14).
pub const NOSYMFOLLOW: u64 = 0x0020_0000;

/// How a mount shares later mounts with its copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Both ways.
    Shared,
    /// From the original to this one.
    Slave,
    /// Not at all.
    Private,
    /// Not at all, and it cannot be bound elsewhere.
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Shared => libc::MS_SHARED,
            Self::Slave => libc::MS_SLAVE,
            Self::Private => libc::MS_PRIVATE,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// The layout of `struct mount_attr` (`MOUNT_ATTR_SIZE_VER0`).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

const _: () = assert!(size_of::<MountAttr>() == 32);

const AT_RECURSIVE: libc::c_int = 0x8000;

fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attr: Attr,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    let raw = MountAttr {
        set: attr.set | if userns.is_some() { IDMAP } else { 0 },
        clear: attr.clear,
        propagation: attr.propagation.map_or(0, Propagation::bits),
        userns_fd: userns.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the path is NUL-terminated, `raw` has the kernel's layout and its size goes along; both outlive
    // the call, and the kernel writes neither.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const raw,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Changes the mount behind `mount`, with `recursive` everything mounted below it too.
///
/// # Errors
/// What mount_setattr(2) says.
pub fn set_attr(mount: BorrowedFd<'_>, recursive: bool, attr: Attr) -> io::Result<()> {
    mount_setattr(mount, c"", recursive, attr, None)
}

/// Changes the mount at the path `path` of the host.
///
/// # Errors
/// What mount_setattr(2) says.
pub fn set_attr_at(path: &CStr, recursive: bool, attr: Attr) -> io::Result<()> {
    mount_setattr(rustix::fs::CWD, path, recursive, attr, None)
}

/// Maps the ids of a detached mount through `userns`.
///
/// # Errors
/// What mount_setattr(2) says: EINVAL where the filesystem cannot.
pub fn set_idmap(mount: BorrowedFd<'_>, recursive: bool, userns: BorrowedFd<'_>) -> io::Result<()> {
    mount_setattr(mount, c"", recursive, Attr::default(), Some(userns))
}

/// A detached copy of the mount that `dir`/`path` lies on, rooted there; with `recursive` of what is mounted
/// below it too. An empty `path` means `dir` itself.
///
/// # Errors
/// What open_tree(2) says.
pub fn open_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(dir, path, flags)?)
}

/// Attaches the mount behind `mount` on what is behind `target`.
///
/// # Errors
/// What move_mount(2) says.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", target, c"", flags)?)
}

/// Unmounts what is mounted at `path`, at once from sight, when unused for good.
///
/// # Errors
/// What umount2(2) says; EINVAL where nothing is mounted there.
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(
        path,
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
    )?)
}

/// Makes the mounted directory `new` the root of this mount namespace and takes the old one out of sight. The
/// working directory is the new root afterwards.
///
/// # Errors
/// What fchdir(2), pivot_root(2), umount2(2) and chdir(2) say.
pub fn pivot(new: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(new)?;
    // The old root is stacked over the new one (pivot_root(2), "NOTES"): no directory for it is needed.
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir(c"/")?)
}

/// A filesystem being configured (fsopen(2)).
#[derive(Debug)]
pub struct Context {
    fd: OwnedFd,
}

impl Context {
    /// Of the type `fs`.
    ///
    /// # Errors
    /// ENODEV for a type this kernel does not have.
    pub fn open(fs: &str) -> io::Result<Self> {
        Ok(Self {
            fd: fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC)?,
        })
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// What the filesystem says, in its words where it leaves any.
    pub fn set(&self, key: &str, value: &str) -> io::Result<()> {
        fsconfig_set_string(&self.fd, key, value).map_err(|error| self.explain(error.into()))
    }

    /// Sets the option `key`, which has no value.
    ///
    /// # Errors
    /// What the filesystem says, in its words where it leaves any.
    pub fn flag(&self, key: &str) -> io::Result<()> {
        fsconfig_set_flag(&self.fd, key).map_err(|error| self.explain(error.into()))
    }

    /// Creates the filesystem and a detached mount of it with the attributes `attr` (`MOUNT_ATTR_*`).
    ///
    /// # Errors
    /// What the filesystem says, in its words where it leaves any.
    pub fn mount(self, attr: u64) -> io::Result<OwnedFd> {
        fsconfig_create(&self.fd).map_err(|error| self.explain(error.into()))?;
        let flags = MountAttrFlags::from_bits_retain(attr as u32);
        fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(|error| self.explain(error.into()))
    }

    /// Adds what the kernel left to read in the context, one line for each message: `e tmpfs: Bad value …`.
    fn explain(&self, error: io::Error) -> io::Error {
        let mut buf = [0; 512];
        let Ok(n @ 1..) = rustix::io::read(&self.fd, &mut buf) else {
            return error;
        };
        let text = String::from_utf8_lossy(&buf[..n]);
        let text = text.trim_end().trim_start_matches("e ");
        io::Error::new(error.kind(), format!("{error}: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::path::Root;
    use crate::process::{Exit, fork, wait};

    /// Runs `f` in a child with a mount namespace of its own; 0 is success.
    fn in_private_namespace(f: impl FnOnce() -> io::Result<bool>) {
        let child = fork(|| {
            let private = Attr {
                propagation: Some(Propagation::Private),
                ..Attr::default()
            };
            let run = || {
                crate::ns::unshare(libc::CLONE_NEWNS)?;
                set_attr_at(c"/", true, private)?;
                f()
            };
            match run() {
                Ok(true) => 0,
                Ok(false) => 1,
                Err(error) => u8::try_from(error.raw_os_error().unwrap_or(2)).unwrap_or(3),
            }
        })
        .unwrap();
        assert_eq!(wait(child).unwrap(), Exit::Code(0));
    }

    #[test]
    fn a_detached_mount_gets_its_attributes_before_it_is_seen() {
        in_private_namespace(|| {
            let context = Context::open("tmpfs")?;
            context.set("size", "64k")?;
            let mount = context.mount(NOSUID)?;
            set_attr(
                mount.as_fd(),
                false,
                Attr {
                    set: RDONLY,
                    ..Attr::default()
                },
            )?;
            let target = Root::open("/tmp")?;
            attach(mount.as_fd(), target.as_fd())?;
            Ok(std::fs::write("/tmp/bulkhead-mount", b"x").unwrap_err().kind() == io::ErrorKind::ReadOnlyFilesystem)
        });
    }

    #[test]
    fn the_filesystem_says_what_is_wrong() {
        in_private_namespace(|| {
            let context = Context::open("tmpfs")?;
            let error = context
                .set("size", "rubbish")
                .and_then(|()| context.mount(0).map(drop))
                .unwrap_err();
            Ok(error.to_string().contains("size"))
        });
    }

    #[test]
    fn pivot_leaves_nothing_of_the_old_root() {
        in_private_namespace(|| {
            let mount = Context::open("tmpfs")?.mount(0)?;
            attach(mount.as_fd(), Root::open("/")?.as_fd())?;
            pivot(mount.as_fd())?;
            Ok(std::fs::read_dir("/")?.next().is_none() && std::fs::metadata("/..").is_ok())
        });
    }
}
