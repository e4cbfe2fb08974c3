//! The working directory: made as root where it is missing, entered as the user, never through a magic link
//! (CVE-2024-21626), and asked afterwards whether it lies below the root.

use std::io;
use std::path::Path;

use rustix::fs::OFlags;
use sys::path::{Links, Root};

use crate::Error;

/// Makes it, with its parents, inside the root.
pub(super) fn make(root: &Root, cwd: &Path) -> Result<(), Error> {
    match root.mkdir_all(cwd, 0o755, Links::Follow) {
        Ok(_) => Ok(()),
        // Root may be refused (a network volume) where the user is not: entering it decides.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(failed("make", cwd, error)),
    }
}

/// Makes it the working directory.
pub(super) fn enter(root: &Root, cwd: &Path) -> Result<(), Error> {
    let dir = root
        .open_with(cwd, OFlags::PATH | OFlags::DIRECTORY, Links::Follow)
        .map_err(|error| failed("open", cwd, error))?;
    rustix::process::fchdir(&dir).map_err(Error::sys("change to working directory", cwd.display()))?;
    let now = rustix::process::getcwd(Vec::new()).map_err(Error::sys("ask for", "the working directory"))?;
    if now.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(Error::state(
            format!("process.cwd {}", cwd.display()),
            "lies outside the container's root: refused",
        ))
    }
}

fn failed(op: &'static str, cwd: &Path, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ELOOP) => Error::state(
            format!("process.cwd {}", cwd.display()),
            "leads through a link of /proc or in circles: refused",
        ),
        _ => Error::sys(op, format!("working directory {}", cwd.display()))(error),
    }
}
