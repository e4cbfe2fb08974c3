//! `create`: from a bundle to a first process that waits just before execve; `start` lets it go.
//!
//! The caller forks a *creator* and reads messages (`sync`) until `Ready`; init is the caller's own child from
//! birth. On any failure nothing is left: init is killed and reaped, the cgroup removed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use sys::process::{self, Exit};

use crate::plan::hooks::Stage;
use crate::sync::{Channel, Message};
use crate::{Error, hooks, parent};

/// What [`create`] works on.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The directory with config.json.
    pub bundle: &'a Path,
    /// The root filesystem as a detached mount; else the path in config.json is taken.
    pub rootfs: Option<BorrowedFd<'a>>,
    /// Detached mounts that are the sources of bind mounts, by their place in the list of config.json.
    pub mounts: Vec<(usize, BorrowedFd<'a>)>,
    /// The mount namespace to begin from, as [`crate::seed()`] makes it; else the caller's own. For a container with hooks
    /// that run before the pivot it is always the caller's: they are to find the host there.
    pub seed: Option<BorrowedFd<'a>>,
    /// Who makes the cgroup.
    pub driver: cgroup::DriverKind,
    /// What the process reads from and writes to.
    pub stdio: Stdio,
}

/// The standard streams of a new process.
#[derive(Debug)]
pub enum Stdio {
    /// The process' ends of three pipes (or files).
    Pipes {
        /// Descriptor 0.
        stdin: OwnedFd,
        /// Descriptor 1.
        stdout: OwnedFd,
        /// Descriptor 2.
        stderr: OwnedFd,
    },
    /// A new pseudo-terminal of the container's devpts; its master comes back.
    Terminal,
}

impl Stdio {
    /// Must say the same as the spec's `process.terminal`.
    pub(crate) fn check(&self, terminal: bool) -> Result<(), Error> {
        if matches!(self, Self::Terminal) == terminal {
            Ok(())
        } else {
            Err(Error::invalid(
                "process.terminal",
                format!("is {terminal}, the caller asked for the opposite"),
            ))
        }
    }

    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Pipes { stdin, stdout, stderr } => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            Self::Terminal => Vec::new(),
        }
    }
}

/// The identity that a process got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
}

/// A container whose first process waits to be started.
#[derive(Debug)]
pub struct Created {
    /// Of init, in the caller's pid namespace. Init is the caller's child; the caller reaps it.
    pub pid: i32,
    /// Of init.
    pub pidfd: OwnedFd,
    /// The master of its terminal, where it has one.
    pub console: Option<OwnedFd>,
    /// Its cgroup, relative to the root of each hierarchy.
    pub cgroup_path: String,
    /// Who init is.
    pub user: User,
    /// What this host withheld, and how the plan was clamped.
    pub clamped: Vec<String>,
    id: String,
    bundle: PathBuf,
    /// Whether there are poststart and poststop hooks.
    hooks: (bool, bool),
    channel: Channel,
}

impl Created {
    /// Lets init execute its program; returns when execve has succeeded and the poststart hooks have run, whose failures
    /// are returned as words and harm nothing (runtime-spec, "Lifecycle", 9).
    ///
    /// Dropping a `Created` that was not started ends init.
    ///
    /// # Errors
    /// Why execve failed: `NotFound` and `PermissionDenied` of the program among it. Init ends then, and is to be
    /// reaped as ever. A process killed in this very moment counts as started: its wait status says the rest.
    pub fn start(&mut self) -> Result<Option<Error>, Error> {
        self.channel
            .send(&Message::Start)
            .map_err(|_| Error::state("init", "has ended before it was started"))?;
        match self.channel.receive()? {
            None if self.hooks.0 => Ok(hooks::outside(&self.id, &self.bundle, &[Stage::Poststart], self.pid).err()),
            None => Ok(None),
            Some((Message::Failed { kind, chain }, _)) => Err(Error::Remote { kind, chain }),
            Some(_) => Err(Error::state("init", "sent a message that does not belong here")),
        }
    }
}

impl Created {
    /// Runs the poststop hooks: when the container and its cgroup are gone, while its bundle is there. Blocks.
    ///
    /// # Errors
    /// The first that failed; nothing depends on it.
    pub fn poststop(&self) -> Result<(), Error> {
        if !self.hooks.1 {
            return Ok(());
        }
        hooks::outside(&self.id, &self.bundle, &[Stage::Poststop], self.pid)
    }
}

/// What has been heard so far.
#[derive(Default)]
struct Heard {
    cgroup_path: Option<String>,
    user: User,
    clamped: Vec<String>,
    hooks: (bool, bool),
    /// Init waits for the hooks of the host.
    wants_hooks: bool,
    init: Option<(i32, OwnedFd)>,
    console: Option<OwnedFd>,
    ready: bool,
    failure: Option<Error>,
}

/// Creates a container from its bundle, up to just before execve.
///
/// # Errors
/// What the plan refuses, and what the kernel refused, with its chain. Nothing is left behind.
pub fn create(req: CreateRequest<'_>) -> Result<Created, Error> {
    // Here and not in the creator, so that the next verb finds it.
    cgroup::Host::shared()?;
    let (ours, theirs) = Channel::pair()?;
    let (id, bundle) = (req.id.to_owned(), req.bundle.to_owned());
    let creator =
        process::fork(move || parent::create::run(req, &theirs)).map_err(Error::sys("fork", "the creator"))?;
    let mut heard = Heard::default();
    let mut ended = None;
    while !(heard.ready && heard.init.is_some()) {
        if heard.ready {
            // `Ready` has overtaken `Spawned`: the creator is about to end. One that was killed says nothing more, and
            // init, which waits for us, keeps the channel open.
            ended.get_or_insert_with(|| process::wait(creator));
            if !ours.has_message() {
                break;
            }
        }
        match ours.receive() {
            Ok(Some((message, fds))) => {
                note(&mut heard, message, fds);
                if let (true, Some((pid, _)), None) = (heard.wants_hooks, &heard.init, &heard.failure) {
                    heard.wants_hooks = false;
                    let stages = [Stage::Prestart, Stage::CreateRuntime];
                    let done = hooks::outside(&id, &bundle, &stages, *pid).and_then(|()| ours.send(&Message::Start));
                    if let Err(error) = done {
                        heard.failure = Some(error);
                        break;
                    }
                }
            }
            Ok(None) => break,
            Err(error) => {
                heard.failure.get_or_insert(error);
                break;
            }
        }
    }
    let ended = ended
        .unwrap_or_else(|| process::wait(creator))
        .map_err(Error::sys("wait for", "the creator"));
    if heard.ready
        && heard.failure.is_none()
        && let (Some(cgroup_path), Some((pid, pidfd))) = (heard.cgroup_path.take(), heard.init.take())
    {
        let Heard {
            user,
            clamped,
            console,
            hooks,
            ..
        } = heard;
        return Ok(Created {
            pid,
            pidfd,
            console,
            cgroup_path,
            user,
            clamped,
            id,
            bundle,
            hooks,
            channel: ours,
        });
    }
    drop(ours);
    Err(undo(heard, ended))
}

fn note(heard: &mut Heard, message: Message, mut fds: Vec<OwnedFd>) {
    match message {
        Message::Planned {
            cgroup_path,
            uid,
            gid,
            groups,
            clamped,
            hooks,
        } => {
            heard.hooks = hooks;
            heard.cgroup_path = Some(cgroup_path);
            heard.user = User {
                uid,
                gid,
                additional_gids: groups,
            };
            heard.clamped = clamped;
        }
        // The pid is that of our child, which nobody else can reap, so it cannot be another's yet.
        Message::Spawned { pid } => match process::pidfd_open(pid) {
            Ok(pidfd) => heard.init = Some((pid, pidfd)),
            Err(error) => {
                heard.failure.get_or_insert(Error::sys("open the pidfd of", pid)(error));
            }
        },
        Message::Console => heard.console = fds.pop(),
        Message::Ready => heard.ready = true,
        Message::Hooks => heard.wants_hooks = true,
        Message::Start => {}
        Message::Failed { kind, chain } => {
            heard.failure.get_or_insert(Error::Remote { kind, chain });
        }
    }
}

/// Takes back what was made; returns the error that says why.
fn undo(heard: Heard, creator: Result<Exit, Error>) -> Error {
    let mut failure = heard.failure;
    if let Some((_, pidfd)) = heard.init {
        // ESRCH: it is gone already; waiting tells.
        drop(process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL));
        match process::wait_pidfd(pidfd.as_fd()) {
            Ok(exit) => {
                failure.get_or_insert(Error::Died {
                    who: "init",
                    how: format!("{exit:?}"),
                });
            }
            Err(error) => {
                failure.get_or_insert(Error::sys("wait for", "init")(error));
            }
        }
    }
    let mut failure = failure.unwrap_or_else(|| match creator {
        Ok(exit) => Error::Died {
            who: "the creator",
            how: format!("{exit:?}"),
        },
        Err(error) => error,
    });
    let Some(path) = heard.cgroup_path else { return failure };
    let group = cgroup::Host::shared().and_then(|host| host.open(&path));
    if matches!(failure, Error::Died { .. })
        && let Ok(group) = &group
        && group.oom_kills().is_ok_and(|count| count > 0)
    {
        failure = Error::Starved { who: "init" };
    }
    match group.and_then(|group| group.remove()) {
        Err(error) if error.kind() != spec::Kind::NotFound => {
            let mut chain = failure.chain();
            chain.push(format!("and the cgroup {path} could not be removed: {error}"));
            Error::Remote {
                kind: failure.kind(),
                chain,
            }
        }
        _ => failure,
    }
}
