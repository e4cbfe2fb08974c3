//! `pin`: a pod's namespaces, made in this process and bound to files, so that they live without a process.
//!
//! Runs in a fresh process with one thread, which ends afterwards: it has moved into what it made. All or nothing:
//! a failure takes back the files and mounts made until then. Order: namespaces → names, sysctls, `lo` → files, so
//! that nobody finds one that is half set up.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::slice;

use rustix::fs::CWD;
use sys::procfs::Procfs;
use sys::{mount, process};

use crate::init::sysctl;
use crate::plan::sysctl::{Sysctl, one};
use crate::plan::userns::{IdMap, Maps};
use crate::{Error, userns};

/// A user namespace to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinUser {
    /// Where to bind it.
    pub path: PathBuf,
    /// Its users.
    pub uids: Vec<IdMap>,
    /// Its groups.
    pub gids: Vec<IdMap>,
}

/// What [`pin`] makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinRequest {
    /// A user namespace, which then owns the others.
    pub user: Option<PinUser>,
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

/// Made and pinned. To be kept until whoever waits for it has been told: the private procfs is unmounted when this is
/// dropped, and that waits for RCU (namespace_unlock).
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
        .map(|(key, value)| one(key, value, |kind| made & kind != 0))
        .collect::<Result<Vec<_>, _>>()?;
    if req.hostname.is_some() && req.uts.is_none() {
        return Err(Error::invalid("hostname", "needs a UTS namespace"));
    }
    if req.loopback_up && req.network.is_none() {
        return Err(Error::invalid("loopback_up", "needs a network namespace"));
    }
    let maps = req
        .user
        .as_ref()
        .map(|user| Maps::new("user", user.uids.clone(), user.gids.clone()));
    let maps = maps.transpose()?;
    let sysctls = match &maps {
        Some(maps) => sysctls
            .into_iter()
            .map(|one| one.for_groups(maps))
            .collect::<Result<_, _>>()?,
        None => sysctls,
    };
    let proc = sysctl::needs_procfs(&sysctls)?;
    let user = match &maps {
        Some(maps) => Some(userns::make(maps)?),
        None => None,
    };
    match &user {
        Some(user) if made != 0 => owned(user, made)?,
        Some(_) => {}
        None => sys::ns::unshare(made).map_err(Error::sys("make", "namespaces"))?,
    }
    if let Some(name) = &req.hostname {
        sys::ns::set_hostname(name).map_err(Error::sys("set host name", name))?;
    }
    if let Some(proc) = &proc {
        configure(proc, &sysctls, maps.as_ref())?;
    }
    if req.loopback_up {
        sys::netif::set_up("lo").map_err(Error::sys("bring up", "lo"))?;
    }
    let mut pinned: Vec<&Path> = Vec::new();
    let mut keep = |source: &Path, path| match bind(source, path) {
        Ok(()) => {
            pinned.push(path);
            Ok(())
        }
        Err(error) => Err(undo(&std::mem::take(&mut pinned), error)),
    };
    if let Some((user, fd)) = req.user.as_ref().zip(user.as_ref()) {
        keep(&Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()), &user.path)?;
    }
    req.kinds()
        .try_for_each(|(_, name, path)| keep(&Path::new("/proc/self/ns").join(name), path))?;
    Ok(Pinned { _procfs: proc })
}

/// Writes the sysctls as the host's root or, where that is refused, as the root of the user namespace: the files of an
/// IPC namespace ask for the one until Linux 6.10 and for the other since (`ipc_permissions`).
fn configure(proc: &Procfs, sysctls: &[Sysctl], maps: Option<&Maps>) -> Result<(), Error> {
    let Some(maps) = maps else {
        return sysctl::write(sysctls, proc);
    };
    let become_uid = |uid| sys::cred::set_effective_uid(uid).map_err(Error::sys("set effective uid", uid));
    for one in sysctls {
        match sysctl::write(slice::from_ref(one), proc) {
            Err(error) if error.kind() == spec::Kind::PermissionDenied => {
                become_uid(maps.root()?.0)?;
                let again = sysctl::write(slice::from_ref(one), proc);
                become_uid(0)?;
                again?;
            }
            other => other?,
        }
    }
    Ok(())
}

/// Moves into new namespaces that `user` owns, and stays the host's root. A child makes them: who is in a user namespace
/// does not come out again.
fn owned(user: &OwnedFd, kinds: libc::c_int) -> Result<(), Error> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::sys("make", "pipe"));
    let ((said, saying), (held, holding)) = (pipe()?, pipe()?);
    let child = {
        let user = user.as_fd();
        process::fork(move || u8::from(hold(user, kinds, saying, held).is_err()))
            .map_err(Error::sys("fork", "the maker of namespaces"))?
    };
    let joined = process::pidfd_open(child)
        .map_err(Error::sys("open the pidfd of", child))
        .and_then(|pidfd| {
            std::fs::File::from(said)
                .read_exact(&mut [0])
                .map_err(|_| Error::state("namespaces of the user namespace", "could not be made"))?;
            sys::ns::setns(pidfd.as_fd(), kinds).map_err(Error::sys("join", "new namespaces"))
        });
    drop(holding);
    process::wait(child).map_err(Error::sys("wait for", "the maker of namespaces"))?;
    joined
}

fn hold(user: BorrowedFd<'_>, kinds: libc::c_int, saying: OwnedFd, held: OwnedFd) -> std::io::Result<()> {
    process::close_all_but(&[user, saying.as_fd(), held.as_fd()])?;
    sys::ns::setns(user, libc::CLONE_NEWUSER)?;
    sys::ns::unshare(kinds)?;
    std::fs::File::from(saying).write_all(&[0])?;
    std::fs::File::from(held).read(&mut [0]).map(drop)
}

/// Binds the namespace `source` on the new file `path`.
fn bind(source: &Path, path: &Path) -> Result<(), Error> {
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
        let tree = mount::open_tree(CWD, source, false)?;
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
