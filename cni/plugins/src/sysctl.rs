//! Sysctls below `/proc/sys/net`, which show the namespace of the calling thread.

use std::path::{Path, PathBuf};

use crate::fault::{Fault, Result};

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(key)
}

/// Writes `value` where it is not already there. `key` has slashes, so that an interface name
/// may have dots.
pub(crate) fn set(key: &str, value: &str) -> Result<()> {
    let path = path(key);
    let now = std::fs::read(&path).map_err(Fault::file("read", &path))?;
    if now.trim_ascii() == value.as_bytes() {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(Fault::file("write", &path))
}

/// The same; a kernel without the key (IPv6 left out) has nothing to set.
pub(crate) fn set_if_there(key: &str, value: &str) -> Result<()> {
    match set(key, value) {
        Err(Fault::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
