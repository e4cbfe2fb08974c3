//! AppArmor and SELinux: told to the kernel for the next execve, through the procfs that the creator has mounted on the
//! host's side, where nothing of the container lies over it (CVE-2019-16884, CVE-2025-52881).

use sys::procfs::Procfs;

use crate::Error;
use crate::plan::label::Labels;

/// The procfs to write through, where there is something to write.
pub(crate) fn procfs(labels: &Labels) -> Result<Option<Procfs>, Error> {
    if labels.is_empty() {
        return Ok(None);
    }
    Procfs::private()
        .map(Some)
        .map_err(Error::sys("mount", "a private procfs"))
}

/// Asks for the labels.
pub(super) fn set(labels: &Labels, proc: Option<&Procfs>) -> Result<(), Error> {
    let Some(proc) = proc else { return Ok(()) };
    if let Some(profile) = &labels.apparmor {
        let value = format!("exec {profile}");
        // Linux 5.1 gives AppArmor files of its own, for the day that two modules are there.
        let result = match proc.write_own("attr/apparmor/exec", value.as_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => proc.write_own("attr/exec", value.as_bytes()),
            other => other,
        };
        result.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::state(
                "process.apparmorProfile",
                format!("no profile {profile:?} is loaded on this host"),
            ),
            _ => Error::sys("change to the AppArmor profile", profile)(error),
        })?;
    }
    if let Some(label) = &labels.selinux {
        proc.write_own("attr/exec", label.as_bytes())
            .map_err(Error::sys("change to the SELinux context", label))?;
    }
    Ok(())
}
