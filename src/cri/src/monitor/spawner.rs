//! The one process that forks monitors and pins namespaces, and the sealed program it runs.
//!
//! `bulkhead-conmon` is copied once into a memfd that can be neither written nor resized:
//! no container can overwrite it through `/proc/PID/exe` (CVE-2019-5736), an upgrade of the
//! file on disk does not reach running pods, and all monitors share its pages. It is run as
//! `bulkhead-conmon spawner` with the control socket (SOCK_SEQPACKET) as descriptor 3, in
//! the cgroup `<cgroup_root>/monitors` before the first order reaches it.
//!
//! A new monitor costs one datagram and a fork of a tiny single-threaded process; the
//! daemon itself is never forked. A spawner that dies is started again; monitors do not
//! notice.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use proto::monitor::{self as wire, frame::Body, reply, spawn::What};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use spec::Kind;
use tokio::io::unix::AsyncFd;

use super::client::{self, Client};
use super::frame::{self, Input};
use crate::error::Error;
use crate::fdio;
use crate::nofile;
use crate::scope::slice_of;

/// The descriptor under which the spawner finds its control socket.
const CONTROL_FD: i32 = 3;

/// How long a child of the spawner may take for what it is to do.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

type Control = Arc<AsyncFd<OwnedFd>>;

/// Where the spawner and all that it forks live.
#[derive(Debug)]
pub(crate) enum Home {
    /// A cgroup of our own.
    Cgroup(cgroup::Cgroup),
    /// A scope of systemd: the client, and the cgroup's path.
    Scope(Arc<cgroup::Systemd>, String),
}

impl Home {
    async fn enter(&self, pid: i32) -> Result<(), Error> {
        let entered = match self {
            Self::Cgroup(cgroup) => cgroup.join(pid),
            Self::Scope(systemd, path) => {
                let scope = cgroup::Scope {
                    name: cgroup::unit_of(path),
                    slice: slice_of(path),
                    description: "Bulkhead monitors",
                    pid: pid.unsigned_abs(),
                    limits: None,
                };
                // Monitors of an earlier daemon may hold it open.
                systemd.enter_scope(&scope).await
            }
        };
        entered.map_err(|e| Error::at("move the spawner to", self.path(), &e))
    }

    fn path(&self) -> &str {
        match self {
            Self::Cgroup(cgroup) => cgroup.path(),
            Self::Scope(_, path) => path,
        }
    }
}

/// A process that waits where it is put until this is dropped.
#[derive(Debug)]
pub(crate) struct Placeholder {
    pid: u32,
    _socket: AsyncFd<OwnedFd>,
}

impl Placeholder {
    /// As the host counts.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

/// The spawner's keeper.
#[derive(Debug)]
pub(crate) struct Spawner {
    program: OwnedFd,
    home: Home,
    control: Mutex<Option<Control>>,
    /// One start at a time.
    starting: tokio::sync::Mutex<()>,
}

/// A sealed, read-only copy of the program at `path`.
fn seal(path: &Path) -> Result<OwnedFd, Error> {
    let at = |op: &str, e: io::Error| Error::at(op, path.display(), &e);
    let mut source = File::open(path).map_err(|e| {
        at("open the monitor program", e).and("put bulkhead-conmon beside bulkhead or set monitor_path")
    })?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is known since Linux 6.3 and needed where vm.memfd_noexec is set.
    let memfd = rustix::fs::memfd_create("bulkhead-conmon", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("bulkhead-conmon", flags))
        .map_err(|e| at("make a memfd for", e.into()))?;
    let mut copy = File::from(memfd);
    io::copy(&mut source, &mut copy).map_err(|e| at("copy", e))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    // F_SEAL_EXEC, since Linux 6.3.
    let with_exec = SealFlags::from_bits_retain(seals.bits() | 0x20);
    rustix::fs::fcntl_add_seals(&copy, with_exec)
        .or_else(|_| rustix::fs::fcntl_add_seals(&copy, seals))
        .map_err(|e| at("seal the copy of", e.into()))?;
    // Opened again for reading: execve answers ETXTBSY while anyone may write.
    let readable = rustix::fs::open(
        format!("/proc/self/fd/{}", copy.as_raw_fd()),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| at("open the copy of", e.into()))?;
    // Away from the number that the control socket gets in the child.
    rustix::io::fcntl_dupfd_cloexec(&readable, 10).map_err(|e| at("keep the copy of", e.into()))
}

impl Spawner {
    /// Seals the program at `path` and starts the spawner in `home`.
    pub(crate) async fn new(path: &Path, home: Home) -> Result<Arc<Self>, Error> {
        let program = seal(path)?;
        let spawner = Arc::new(Self {
            program,
            home,
            control: Mutex::default(),
            starting: tokio::sync::Mutex::new(()),
        });
        spawner.start(None).await?;
        Ok(spawner)
    }

    /// A new monitor, past its Hello.
    pub(crate) async fn monitor(self: &Arc<Self>) -> Result<Client, Error> {
        let socket = self.spawn(What::Monitor(wire::SpawnMonitor {})).await?;
        Client::start(socket).await.map_err(|e| e.during("start", "a monitor"))
    }

    /// Makes and pins a pod's namespaces.
    pub(crate) async fn pin(self: &Arc<Self>, pin: wire::Pin) -> Result<(), Error> {
        let socket = self.spawn(What::Pin(pin)).await?;
        match answer("pinning namespaces", &registered(socket)?).await? {
            reply::Result::Failure(f) => Err(client::failure(&f)),
            reply::Result::Done(_) => Ok(()),
            other => Err(client::unexpected("Done", &other)),
        }
    }

    /// A process that waits in the cgroup it is put into.
    pub(crate) async fn placeholder(self: &Arc<Self>) -> Result<Placeholder, Error> {
        let socket = registered(self.spawn(What::Placeholder(wire::SpawnPlaceholder {})).await?)?;
        match answer("starting a placeholder", &socket).await? {
            reply::Result::Hello(hello) => Ok(Placeholder {
                pid: hello.pid.unsigned_abs(),
                _socket: socket,
            }),
            reply::Result::Failure(f) => Err(client::failure(&f)),
            other => Err(client::unexpected("Hello", &other)),
        }
    }

    /// Sends an order; our end of the new process's socket comes back.
    async fn spawn(self: &Arc<Self>, what: What) -> Result<OwnedFd, Error> {
        let at = |e: rustix::io::Errno| Error::at("make", "a socket pair for a monitor", &e);
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(at)?;
        let order = wire::Spawn { what: Some(what) }.encode_to_vec();
        let theirs = [theirs];
        let control = match self.control() {
            Some(control) => control,
            None => self.start(None).await?,
        };
        if let Err(error) = deliver(&control, &order, &theirs).await {
            tracing::warn!(%error, "the spawner is away, starting it again");
            let control = self.start(Some(control)).await?;
            deliver(&control, &order, &theirs)
                .await
                .map_err(|e| Error::at("order", "a process of the spawner", &e))?;
        }
        Ok(ours)
    }

    fn control(&self) -> Option<Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts the spawner unless somebody else did since `dead` was seen.
    async fn start(self: &Arc<Self>, dead: Option<Control>) -> Result<Control, Error> {
        let _turn = self.starting.lock().await;
        if let Some(control) = self.control()
            && dead.is_none_or(|dead| !Arc::ptr_eq(&dead, &control))
        {
            return Ok(control);
        }
        let at = |op: &str, e: io::Error| Error::at(op, "the spawner", &e);
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| at("make a socket pair for", e.into()))?;
        let mut command = std::process::Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command
            .arg("spawner")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        sys::inherit::inherit(&mut command, theirs, CONTROL_FD);
        let mut command = tokio::process::Command::from(command);
        let mut child = command.spawn().map_err(|e| at("start", e))?;
        drop(command); // closes our copy of the child's end
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let Some(pid) = pid else {
            return Err(Error::new(Kind::Unavailable, "the spawner ended at once"));
        };
        // Joined before the first order: every monitor is born in this cgroup.
        self.home.enter(pid).await?;
        nofile::give_back(pid).map_err(|e| at("limit the open files of", e))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|e| at("set up", e.into()))?;
        let control = Arc::new(fdio::register(ours).map_err(|e| at("watch", e))?);
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&control));
        let keeper = Arc::downgrade(self);
        let mine = Arc::downgrade(&control);
        tokio::spawn(async move {
            let status = child.wait().await;
            // The next order starts it again; a crash loop costs one start an order.
            if let Some(keeper) = keeper.upgrade() {
                tracing::warn!(
                    pid,
                    ?status,
                    "the spawner ended; monitors go on, the next pod starts it again"
                );
                let mut control = keeper.control.lock().unwrap_or_else(PoisonError::into_inner);
                if control.as_ref().is_some_and(|now| Arc::downgrade(now).ptr_eq(&mine)) {
                    *control = None;
                }
            }
        });
        Ok(control)
    }
}

async fn deliver(control: &AsyncFd<OwnedFd>, order: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    loop {
        let mut ready = control.writable().await?;
        match ready.try_io(|socket| frame::send(socket.get_ref().as_fd(), order, fds)) {
            Ok(Ok(_whole)) => return Ok(()),
            Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(e)) => return Err(e),
            Err(_would_block) => {}
        }
    }
}

fn registered(socket: OwnedFd) -> Result<AsyncFd<OwnedFd>, Error> {
    let at = |e: &io::Error| Error::at("watch", "the socket of the spawner's child", e);
    rustix::io::ioctl_fionbio(&socket, true).map_err(|e| at(&e.into()))?;
    fdio::register(socket).map_err(|e| at(&e))
}

/// The one answer of a child that is no monitor.
async fn answer(what: &str, socket: &AsyncFd<OwnedFd>) -> Result<reply::Result, Error> {
    match tokio::time::timeout(ANSWER_DEADLINE, one_reply(socket)).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::new(
            Kind::DeadlineExceeded,
            format!("{what} took more than {} s", ANSWER_DEADLINE.as_secs()),
        )),
    }
}

async fn one_reply(socket: &AsyncFd<OwnedFd>) -> Result<reply::Result, Error> {
    let at = |e: &io::Error| Error::at("read the answer of", "the spawner's child", e);
    let mut input = Input::default();
    loop {
        let mut ready = socket.readable().await.map_err(|e| at(&e))?;
        match ready.try_io(|socket| input.fill(socket.get_ref().as_fd())) {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                return Err(Error::new(
                    Kind::Internal,
                    "the spawner's child ended without an answer",
                ));
            }
            Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(e)) => return Err(at(&e)),
            Err(_would_block) => continue,
        }
        if let Some(frame) = input.take().map_err(|e| at(&e))?
            && let Some(Body::Reply(wire::Reply {
                result: Some(result), ..
            })) = frame.body
        {
            return Ok(result);
        }
    }
}
