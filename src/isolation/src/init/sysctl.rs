//! Sysctls, through a procfs of one's own.

use sys::procfs::Procfs;

use crate::Error;
use crate::plan::sysctl::Sysctl;

/// The procfs to write through, where there is something to write.
pub(crate) fn needs_procfs(sysctls: &[Sysctl]) -> Result<Option<Procfs>, Error> {
    if sysctls.is_empty() {
        return Ok(None);
    }
    Procfs::private()
        .map(Some)
        .map_err(Error::sys("mount", "a private procfs"))
}

/// Writes all of them.
pub(crate) fn write(sysctls: &[Sysctl], proc: &Procfs) -> Result<(), Error> {
    for sysctl in sysctls {
        proc.write(&sysctl.path, sysctl.value.as_bytes()).map_err(Error::sys(
            "write",
            format!("{:?} to sysctl {}", sysctl.value, sysctl.path.display()),
        ))?;
    }
    Ok(())
}
