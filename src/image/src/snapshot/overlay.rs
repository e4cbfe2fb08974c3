//! The overlay mount of a snapshot, as a descriptor that is attached nowhere.
//!
//! `fsopen`, one `lowerdir+` for each layer (Linux 6.8; the one string of the old way ends
//! after a page, which is some 40 layers), `fsmount`. A value may have 255 bytes, so longer
//! paths are given by descriptor.
//!
//! Options are fixed, because the kernel's defaults differ by distribution: `metacopy=off` and
//! `redirect_dir=nofollow` so that attributes in a layer can redirect nothing, `index=off` so
//! that layers may be shared and a mount can be made again while another lives.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use spec::Kind;

use crate::error::{Error, sys};

const OPTIONS: [(&str, &str); 3] = [("metacopy", "off"), ("redirect_dir", "nofollow"), ("index", "off")];
/// `fsconfig(2)`: 256 with the zero.
const MAX_VALUE: usize = 255;

/// Mounts `lowers` (top first) below `dir/upper`.
pub(crate) fn mount(lowers: &[PathBuf], dir: &Path) -> Result<OwnedFd, Error> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(sys("fsopen", "overlay"))?;
    // Kept open until the mount is made.
    let mut open: Vec<OwnedFd> = Vec::new();
    let empty = dir.join("empty");
    let lowers = if lowers.is_empty() {
        // An image without layers: overlayfs wants at least one lower directory.
        match rustix::fs::mkdir(&empty, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => std::slice::from_ref(&empty),
            Err(e) => return Err(sys("mkdir", empty.display())(e)),
        }
    } else {
        lowers
    };
    for lower in lowers {
        set_path(&fs, "lowerdir+", lower, &mut open)?;
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
