//! no_new_privs, capabilities, groups and ids: from root of the host to what the spec says.
//!
//! Order: the bounding set falls while `CAP_SETPCAP` is there; groups, gid and uid fall while `CAP_SETGID` and
//! `CAP_SETUID` are, and the permitted set is kept across (`PR_SET_KEEPCAPS`); then the other sets, ambient last,
//! because the kernel raises there only what is permitted and inheritable.

use sys::cap::{self, SYS_ADMIN, Sets};
use sys::{cred, prctl};

use crate::Error;
use crate::plan::process::Process;

/// Becomes root of the user namespace that this process has just come into: until then its ids exist on the host alone.
pub(super) fn become_root() -> Result<(), Error> {
    cred::set_groups(&[]).map_err(Error::sys("leave", "the host's groups"))?;
    cred::set_gid(0).map_err(Error::sys("set gid", 0))?;
    cred::set_uid(0).map_err(Error::sys("set uid", 0))?;
    prctl::set_dumpable(false).map_err(Error::sys("make undumpable", "the process"))
}

/// Becomes what `process` says. With `to_load_seccomp` `CAP_SYS_ADMIN` stays until execve takes it (see `init`).
pub(super) fn assume(process: &Process, to_load_seccomp: bool) -> Result<(), Error> {
    if process.no_new_privs {
        prctl::set_no_new_privs().map_err(Error::sys("set", "no_new_privs"))?;
    }
    let caps = process.caps;
    cap::bound(caps.bounding).map_err(Error::sys("drop", "the bounding set"))?;
    prctl::set_keep_caps(true).map_err(Error::sys("keep", "capabilities"))?;
    cred::set_groups(&process.groups).map_err(Error::sys("set", "supplementary groups"))?;
    cred::set_gid(process.gid).map_err(Error::sys("set gid", process.gid))?;
    cred::set_uid(process.uid).map_err(Error::sys("set uid", process.uid))?;
    let extra = if to_load_seccomp {
        SYS_ADMIN
    } else {
        cap::Caps::default()
    };
    cap::set(Sets {
        effective: caps.effective.union(extra),
        permitted: caps.permitted.union(extra),
        inheritable: caps.inheritable,
    })
    .map_err(Error::sys("set", "capabilities"))?;
    cap::set_ambient(caps.ambient).map_err(Error::sys("set", "the ambient set"))?;
    // Changing ids may have made the process dumpable again (credentials(7), fs.suid_dumpable).
    prctl::set_dumpable(false).map_err(Error::sys("make undumpable", "the process"))
}
