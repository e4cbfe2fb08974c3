//! Reading what an image wrote: through the handle of its detached root mount, resolved
//! inside it (openat2 RESOLVE_IN_ROOT), bounded, regular files only.
//!
//! A hostile image may have /etc/passwd as a link to the host, a FIFO, a device or eight
//! gigabytes of zeros (CVE-2026-47262, CVE-2024-9676): a link stays inside the root, and
//! the others are refused without being opened for long.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::plan::users::Accounts;
use crate::error::Error;

/// Longest account file that is read.
const MAX_ACCOUNTS: u64 = 1 << 20;

/// The text of `path` inside `root`, and whether others than its owner may write it; None if there is no such file.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<Option<(String, bool)>, Error> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = match sys::path::openat2(root, path, flags, resolve) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(Error::at("open in the image", path, &e)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::at("look at the image's", path, &e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid(format!(
            "the image's {path} is no regular file; use another image"
        )));
    }
    let mut bytes = Vec::new();
    let read = File::from(fd).take(MAX_ACCOUNTS + 1).read_to_end(&mut bytes);
    let size = read.map_err(|e| Error::at("read the image's", path, &e))? as u64;
    if size > MAX_ACCOUNTS {
        return Err(Error::invalid(format!(
            "the image's {path} is longer than {MAX_ACCOUNTS} bytes; use another image"
        )));
    }
    // Names in other encodings cannot be asked for: CRI strings are UTF-8.
    let open = stat.st_mode & 0o022 != 0;
    Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), open)))
}

/// The account files of the image.
pub(crate) fn accounts(root: BorrowedFd<'_>) -> Result<Accounts, Error> {
    let (passwd, open) = read(root, "etc/passwd")?.unwrap_or_default();
    let (group, _) = read(root, "etc/group")?.unwrap_or_default();
    Ok(Accounts { passwd, group, open })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use std::os::fd::AsFd;

    fn root(dir: &std::path::Path) -> std::os::fd::OwnedFd {
        std::fs::create_dir(dir.join("etc")).unwrap();
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn links_stay_inside_and_missing_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        std::os::unix::fs::symlink("/secret", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(accounts(root.as_fd()).unwrap().passwd, "");
        std::fs::write(dir.path().join("secret"), "inside").unwrap();
        assert_eq!(accounts(root.as_fd()).unwrap().passwd, "inside");
    }

    #[test]
    fn a_fifo_a_device_link_and_a_giant_are_refused_fast() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        let group = dir.path().join("etc/group");
        rustix::fs::mknodat(rustix::fs::CWD, &group, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(accounts(root.as_fd()).unwrap_err().to_string().contains("regular"));
        std::fs::remove_file(&group).unwrap();
        File::create(&group).unwrap().set_len(8 << 30).unwrap();
        assert!(accounts(root.as_fd()).unwrap_err().to_string().contains("longer"));
    }
}
