//! `pin`: a pod's namespaces, made in this process and bound to files, so that they live without a process.
//!
//! Runs in a fresh process with one thread, which ends afterwards: it has moved into what it made. All or nothing:
//! a failure takes back the files and mounts made until then. Order: namespaces → names, sysctls, `lo` → files, so
//! that nobody finds one that is half set up.

use std::fs::{DirBuilder, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use sys::mount;
use sys::procfs::Procfs;

use crate::Error;
use crate::plan::sysctl;

/// What [`pin`] makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinRequest {
    /// Where to bind a new network namespace.
    pub network: Option<PathBuf>,
    /// Where to bind a new IPC namespace.
    pub ipc: Option<PathBuf>,
    /// Where to bind a new UTS namespace.
    pub uts: Option<PathBuf>,
    /// The name in the new UTS namespace.
    pub hostname: Option<String>,
    /// Written in the new namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Whether `lo` is brought up in the new network namespace.
    pub loopback_up: bool,
}

impl PinRequest {
    fn kinds(&self) -> impl Iterator<Item = (libc::c_int, &'static str, &Path)> {
        [
            (libc::CLONE_NEWNET, "net", &self.network),
            (libc::CLONE_NEWIPC, "ipc", &self.ipc),
            (libc::CLONE_NEWUTS, "uts", &self.uts),
        ]
        .into_iter()
        .filter_map(|(kind, name, path)| Some((kind, name, path.as_deref()?)))
    }
}

/// Made and pinned. To be kept until whoever waits for it has been told: letting go of what it took costs a grace period
/// of RCU.
#[derive(Debug)]
pub struct Pinned {
    _procfs: Option<Procfs>,
}

/// Makes and pins the namespaces of `req`.
///
/// # Errors
/// A sysctl, name or `loopback_up` without its namespace, a file that exists already, and what the kernel refuses.
pub fn pin(req: &PinRequest) -> Result<Pinned, Error> {
    let made = req.kinds().fold(0, |all, (kind, ..)| all | kind);
    let sysctls = req
        .sysctls
        .iter()
        .map(|(key, value)| sysctl::one(key, value, |kind| made & kind != 0))
        .collect::<Result<Vec<_>, _>>()?;
    if req.hostname.is_some() && req.uts.is_none() {
        return Err(Error::invalid("hostname", "needs a UTS namespace"));
    }
    if req.loopback_up && req.network.is_none() {
        return Err(Error::invalid("loopback_up", "needs a network namespace"));
    }
    sys::ns::unshare(made).map_err(Error::sys("make", "namespaces"))?;
    if let Some(name) = &req.hostname {
        sys::ns::set_hostname(name).map_err(Error::sys("set host name", name))?;
    }
    let procfs = crate::init::sysctl::write(&sysctls)?;
    if req.loopback_up {
        sys::netif::set_up("lo").map_err(Error::sys("bring up", "lo"))?;
    }
    let mut pinned: Vec<&Path> = Vec::new();
    for (_, name, path) in req.kinds() {
        if let Err(error) = bind(name, path) {
            return Err(undo(&pinned, error));
        }
        pinned.push(path);
    }
    Ok(Pinned { _procfs: procfs })
}

/// Binds this process' namespace `name` on the new file `path`.
fn bind(name: &str, path: &Path) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(Error::sys("make", dir.display()))?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(Error::sys("make", path.display()))?;
    let attach = || {
        let tree = mount::open_tree(CWD, &Path::new("/proc/self/ns").join(name), false)?;
        let target = rustix::fs::openat(
            CWD,
            path,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        mount::attach(tree.as_fd(), target.as_fd())
    };
    attach().map_err(|source| undo_file(path, Error::sys("pin", path.display())(source)))
}

fn undo_file(path: &Path, error: Error) -> Error {
    match std::fs::remove_file(path) {
        Ok(()) => error,
        Err(second) => also(&error, path, &second),
    }
}

fn undo(pinned: &[&Path], mut error: Error) -> Error {
    for path in pinned.iter().rev() {
        error = match mount::detach(path) {
            Ok(()) => undo_file(path, error),
            Err(second) => also(&error, path, &second),
        };
    }
    error
}

/// The first error, with what could not be undone at the end of its chain.
fn also(error: &Error, path: &Path, second: &std::io::Error) -> Error {
    let mut chain = error.chain();
    chain.push(format!("and {} could not be removed: {second}", path.display()));
    Error::Remote {
        kind: error.kind(),
        chain,
    }
}
