//! The short-lived process between the caller and a new process: *creator* (`create`) or *joiner* (`join`).
//!
//! It exists so that the caller's heap and view of the mounts stay clean: parsing, planning and everything opened
//! from the host happens here. It first closes every descriptor it was not given and makes itself undumpable,
//! which its child inherits: until execve nothing in the container can open `/proc/<pid>/…` of it (CVE-2016-9962).

pub(crate) mod create;
mod idmap;
pub(crate) mod join;
mod sources;

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::process::Resource;
use sys::cap::{self, SYS_RESOURCE};

use crate::Error;
use crate::plan::Facts;
use crate::plan::label::Module;
pub(crate) use sources::Sources;

/// Closes what is not in `keep`, becomes undumpable.
fn isolate_self(keep: &[BorrowedFd<'_>]) -> Result<(), Error> {
    sys::process::close_all_but(keep).map_err(Error::sys("close", "inherited descriptors"))?;
    // Modes are what they say, here and in the new process; its own mask comes last.
    sys::cred::set_umask(0);
    sys::prctl::set_dumpable(false).map_err(Error::sys("make undumpable", "the creator"))
}

fn hard_limit(resource: Resource) -> Option<u64> {
    sys::rlimit::get(resource).hard
}

/// What this host allows this process.
fn facts() -> Result<Facts<'static>, Error> {
    let permitted = cap::get().map_err(Error::sys("read", "capabilities"))?.permitted;
    let bounding = cap::bounding().map_err(Error::sys("read", "the bounding set"))?;
    let caps = permitted.intersection(bounding);
    let oom_score_adj = if caps.contains(SYS_RESOURCE) {
        -1000
    } else {
        own_oom_score_adj()?
    };
    Ok(Facts {
        caps,
        oom_score_adj,
        may_raise_limits: caps.contains(SYS_RESOURCE),
        has: &has,
        hard_limit: &hard_limit,
    })
}

/// Whether a security module is on, as its own files say.
fn has(module: Module) -> bool {
    match module {
        Module::AppArmor => {
            std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|on| on.starts_with(b"Y"))
        }
        Module::SeLinux => Path::new("/sys/fs/selinux/enforce").exists(),
    }
}

const OOM: &str = "/proc/self/oom_score_adj";

fn own_oom_score_adj() -> Result<i32, Error> {
    let text = std::fs::read_to_string(OOM).map_err(Error::sys("read", OOM))?;
    text.trim()
        .parse()
        .map_err(|_| Error::state(OOM, format!("{:?} is no number", text.trim())))
}

/// Sets it here, for the child to inherit: this is still the host's own procfs.
fn set_oom_score_adj(value: Option<i32>) -> Result<(), Error> {
    let Some(value) = value else { return Ok(()) };
    std::fs::write(OOM, value.to_string()).map_err(Error::sys("write", OOM))
}
