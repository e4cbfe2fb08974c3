//! Sysctls, through a procfs of one's own.

use sys::procfs::Procfs;

use crate::Error;
use crate::plan::sysctl::Sysctl;

/// Writes all of them; mounts nothing where there are none. Whoever drops the procfs unmounts it, and waits a grace
/// period of RCU for that (namespace_unlock).
pub(crate) fn write(sysctls: &[Sysctl]) -> Result<Option<Procfs>, Error> {
    if sysctls.is_empty() {
        return Ok(None);
    }
    let proc = Procfs::private().map_err(Error::sys("mount", "a private procfs"))?;
    for sysctl in sysctls {
        proc.write(&sysctl.path, sysctl.value.as_bytes()).map_err(Error::sys(
            "write",
            format!("{:?} to sysctl {}", sysctl.value, sysctl.path.display()),
        ))?;
    }
    Ok(Some(proc))
}
