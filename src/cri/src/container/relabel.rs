//! Gives what is mounted the SELinux context of the container's files (`Mount.selinux_relabel`). Blocking.
//!
//! The tree may belong to a container that changes it meanwhile: every name is opened below its own directory, links are
//! labelled themselves and never followed, and what is mounted inside the tree is left alone.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags, fstat, openat, setxattr};
use rustix::io::Errno;
use sys::path::openat2;

use crate::error::Error;

const LABEL: &str = "security.selinux";

/// Directories below one another; each holds two descriptors, and a container may have made the tree.
const DEEPEST: usize = 256;

/// Directories of the host itself: with another context it would not come up again.
const HOSTS_OWN: [&str; 21] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/etc/pki", "/home", "/lib", "/lib64", "/media", "/opt", "/proc", "/root",
    "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib",
];

/// Labels `path` and all below it. What cannot keep a label (NFS, a mount with `context=`) goes without, as with the peers.
pub(crate) fn tree(path: &Path, label: &str) -> Result<(), Error> {
    let at = |errno: Errno| Error::at("relabel", path.display(), &errno);
    let real = path
        .canonicalize()
        .map_err(|e| Error::at("look at the mount source", path.display(), &e))?;
    if HOSTS_OWN.iter().any(|own| real == Path::new(own)) {
        return Err(Error::invalid(format!(
            "selinux_relabel: {} is the host's own and keeps its SELinux context; mount a directory in it",
            real.display()
        )));
    }
    let top = openat(
        CWD,
        &real,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(at)?;
    one(top.as_fd(), label, 0).map_err(at)
}

fn one(file: BorrowedFd<'_>, label: &str, depth: usize) -> Result<(), Errno> {
    if depth > DEEPEST {
        return Err(Errno::NAMETOOLONG);
    }
    // An O_PATH descriptor of a link is the link itself.
    let place = format!("/proc/self/fd/{}", file.as_raw_fd());
    let value = [label.as_bytes(), b"\0"].concat();
    match setxattr(place.as_str(), LABEL, &value, XattrFlags::empty()) {
        Ok(()) => {}
        // A read-only file system keeps what it has.
        Err(Errno::OPNOTSUPP | Errno::ROFS) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    if FileType::from_raw_mode(fstat(file)?.st_mode) != FileType::Directory {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(file, c".", flags, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        match below(directory.as_fd(), entry.file_name()) {
            Ok(child) => one(child.as_fd(), label, depth + 1)?,
            // It went meanwhile, or something else is mounted there.
            Err(Errno::NOENT | Errno::XDEV) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn below(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(directory, name, flags, ResolveFlags::NO_XDEV | ResolveFlags::BENEATH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const WANTED: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn label(path: &Path) -> Option<String> {
        let mut buffer = [0; 256];
        let count = rustix::fs::lgetxattr(path, LABEL, &mut buffer).ok()?;
        Some(
            String::from_utf8(buffer[..count].to_vec())
                .unwrap()
                .trim_end_matches('\0')
                .to_owned(),
        )
    }

    #[test]
    fn a_tree_is_labelled_and_nothing_that_a_link_leads_to() {
        if !rustix::process::geteuid().is_root() {
            // security.* is root's; the suites run as root.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(tree.join("sub/file"), "").unwrap();
        fs::write(outside.join("file"), "").unwrap();
        symlink(&outside, tree.join("sub/link")).unwrap();
        super::tree(&tree, WANTED).unwrap();
        for name in ["", "sub", "sub/file", "sub/link"] {
            assert_eq!(label(&tree.join(name)).as_deref(), Some(WANTED), "{name}");
        }
        assert_ne!(label(&outside).as_deref(), Some(WANTED));
        assert_ne!(label(&outside.join("file")).as_deref(), Some(WANTED));
        // The source itself may be a link.
        symlink(&outside, dir.path().join("source")).unwrap();
        super::tree(&dir.path().join("source"), WANTED).unwrap();
        assert_eq!(label(&outside.join("file")).as_deref(), Some(WANTED));
    }

    #[test]
    fn a_tree_without_end_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().to_owned();
        for _ in 0..=DEEPEST {
            path.push("d");
            fs::create_dir(&path).unwrap();
        }
        assert!(tree(dir.path(), WANTED).is_err());
    }

    #[test]
    fn the_hosts_own_directories_and_missing_ones_are_refused() {
        let error = tree(Path::new("/usr/../etc/"), WANTED).unwrap_err().to_string();
        assert!(error.contains("/etc is the host's own"), "{error}");
        assert!(tree(Path::new("/none/such"), WANTED).is_err());
        assert!(tree(Path::new("/sys"), WANTED).is_err());
    }
}
