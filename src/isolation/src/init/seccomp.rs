//! The filter: compiled by the creator, loaded as the last thing before execve.

use ::seccomp::Program;
use spec::runtime::LinuxSeccomp;

use crate::Error;

/// Compiles the profile of the spec.
pub(crate) fn compile(profile: Option<&LinuxSeccomp>) -> Result<Option<Program>, Error> {
    let Some(profile) = profile else { return Ok(None) };
    let program = ::seccomp::compile(profile)?;
    if program.notify {
        return Err(Error::unsupported(
            "linux.seccomp",
            "SCMP_ACT_NOTIFY is not supported yet",
        ));
    }
    Ok(Some(program))
}

/// Loads it. After this only execve, write and exit are called.
pub(super) fn load(program: Option<&Program>) -> Result<(), Error> {
    let Some(program) = program else { return Ok(()) };
    sys::seccomp::load(&program.filter, program.flags)
        .map(drop)
        .map_err(Error::sys("load", "seccomp filter"))
}
