//! `exec`: a second process in a running container. It does not block: the caller polls, then finishes.
//!
//! The caller forks a *joiner*, which joins the pid namespace of init and clones the process as the caller's own
//! child. A pipe, close-on-exec in both of them, ends when execve has succeeded or all has failed: that is what
//! [`PendingExec`]'s descriptor waits for; by then all messages are there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use sys::process;

use crate::sync::{Channel, Message};
use crate::{Error, Stdio, parent};

/// What [`exec`] works on.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The pidfd of the container's init.
    pub init: BorrowedFd<'a>,
    /// Its pid, for messages.
    pub init_pid: i32,
    /// The directory with the container's config.json: the seccomp profile comes from there.
    pub bundle: &'a Path,
    /// An OCI runtime-spec `process` object.
    pub process_json: &'a [u8],
    /// What the process reads from and writes to.
    pub stdio: Stdio,
    /// The container's cgroup.
    pub cgroup_path: &'a str,
    /// Who made it.
    pub driver: cgroup::DriverKind,
    /// Whether what it forks and leaves stays its own (`PR_SET_CHILD_SUBREAPER`), so that whoever has to end it finds
    /// them all by their parents, with whatever session they have made. It is then their parent for good, and may
    /// have to reap them: for a process with a deadline, not for a user's shell.
    pub keeps_orphans: bool,
}

/// A process on its way to execve. Its descriptor becomes readable when [`PendingExec::finish`] will not block.
/// Dropped before that, what there is of the process is killed and reaped.
#[derive(Debug)]
pub struct PendingExec {
    done: OwnedFd,
    channel: Channel,
    /// Its pid, until it has been reaped.
    joiner: Option<i32>,
}

/// A process in the container; the caller's child, which the caller reaps.
///
/// In a container with a pid namespace of its own, init's end is not seen before all processes of the namespace have
/// been reaped, these among them: reap by pidfd as each one ends, never init first.
#[derive(Debug)]
pub struct Execed {
    /// In the caller's pid namespace.
    pub pid: i32,
    /// Of the process.
    pub pidfd: OwnedFd,
    /// The master of its terminal, where it has one.
    pub console: Option<OwnedFd>,
    /// What this host withheld.
    pub clamped: Vec<String>,
}

impl AsFd for PendingExec {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

/// Begins a process in the container of `req.init`.
///
/// # Errors
/// Only what pipe(2), socketpair(2) and fork(2) say, and a host without cgroups; all else comes from [`PendingExec::finish`].
pub fn exec(req: ExecRequest<'_>) -> Result<PendingExec, Error> {
    // Here and not in the joiner, so that the next verb finds it.
    cgroup::Host::shared()?;
    let (ours, theirs) = Channel::pair()?;
    let (done, running) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::sys("make", "pipe"))?;
    let pid =
        process::fork(move || parent::join::run(req, &theirs, &running)).map_err(Error::sys("fork", "the joiner"))?;
    Ok(PendingExec {
        done,
        channel: ours,
        joiner: Some(pid),
    })
}

#[derive(Default)]
struct Heard {
    process: Option<(i32, OwnedFd)>,
    console: Option<OwnedFd>,
    clamped: Vec<String>,
    failure: Option<Error>,
}

impl PendingExec {
    /// What became of it: the process, with execve done, or why not. Blocks until that is known.
    ///
    /// # Errors
    /// What the plan or the kernel refused; `NotFound` and `PermissionDenied` for the program;
    /// `FailedPrecondition` where the container has ended.
    pub fn finish(mut self) -> Result<Execed, Error> {
        let heard = self.hear();
        if heard.failure.is_none()
            && let Some((pid, pidfd)) = heard.process
        {
            return Ok(Execed {
                pid,
                pidfd,
                console: heard.console,
                clamped: heard.clamped,
            });
        }
        let died = heard.process.map(|(_, pidfd)| reap(pidfd.as_fd()));
        Err(heard.failure.or(died).unwrap_or(Error::Died {
            who: "the joiner",
            how: "without a word".to_owned(),
        }))
    }

    /// All messages up to the end; the joiner is reaped.
    fn hear(&mut self) -> Heard {
        let mut heard = Heard::default();
        loop {
            match self.channel.receive() {
                Ok(Some((Message::Spawned { pid }, _))) => match process::pidfd_open(pid) {
                    Ok(pidfd) => heard.process = Some((pid, pidfd)),
                    Err(error) => heard.failure = Some(Error::sys("open the pidfd of", pid)(error)),
                },
                Ok(Some((Message::Console, mut fds))) => heard.console = fds.pop(),
                Ok(Some((Message::Planned { clamped, .. }, _))) => heard.clamped = clamped,
                Ok(Some((Message::Failed { kind, chain }, _))) => {
                    heard.failure.get_or_insert(Error::Remote { kind, chain });
                }
                Ok(Some((Message::Ready | Message::Hooks | Message::Start, _))) => {}
                Ok(None) => break,
                Err(error) => {
                    heard.failure.get_or_insert(error);
                    break;
                }
            }
        }
        if let Some(pid) = self.joiner.take()
            && let Err(error) = process::wait(pid)
        {
            heard.failure.get_or_insert(Error::sys("wait for", "the joiner")(error));
        }
        heard
    }
}

/// Kills and reaps a child; says how it ended.
fn reap(pidfd: BorrowedFd<'_>) -> Error {
    drop(process::pidfd_signal(pidfd, libc::SIGKILL));
    match process::wait_pidfd(pidfd) {
        Ok(exit) => Error::Died {
            who: "the new process",
            how: format!("{exit:?}"),
        },
        Err(error) => Error::sys("wait for", "the new process")(error),
    }
}

impl Drop for PendingExec {
    fn drop(&mut self) {
        // The joiner is waited for and not killed: killed between clone3 and its message it would leave a process that
        // nobody knows. It blocks on nothing.
        let Some(pid) = self.joiner.take() else { return };
        process::wait(pid).ok();
        // All that the joiner said is there. Only what is there is read: the process may hang.
        while self.channel.has_message() {
            match self.channel.receive() {
                Ok(Some((Message::Spawned { pid }, _))) => {
                    if let Ok(pidfd) = process::pidfd_open(pid) {
                        drop(reap(pidfd.as_fd()));
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }
}
