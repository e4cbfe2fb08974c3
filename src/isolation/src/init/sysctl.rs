//! Sysctls, through a procfs of one's own.

use sys::procfs::Procfs;

use crate::Error;
use crate::plan::sysctl::Sysctl;

/// Writes all of them; mounts nothing where there are none.
pub(crate) fn write(sysctls: &[Sysctl]) -> Result<(), Error> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let proc = Procfs::private().map_err(Error::sys("mount", "a private procfs"))?;
    for sysctl in sysctls {
        proc.write(&sysctl.path, sysctl.value.as_bytes()).map_err(Error::sys(
            "write",
            format!("{:?} to sysctl {}", sysctl.value, sysctl.path.display()),
        ))?;
    }
    Ok(())
}
