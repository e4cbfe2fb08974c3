//! What a daemon may ask, one method a verb; wire types come in and go out here.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use proto::monitor::{self as wire, reply::Result as Answer, request::Verb};
use rustix::fs::{CWD, Mode, OFlags, openat};
use spec::Kind;

use crate::attach::Client;
use crate::container::Container;
use crate::error::Error;
use crate::exec::{Running, Starting};
use crate::exit;
use crate::io;
use crate::log::clock;
use crate::monitor::{Monitor, Phase};
use crate::oom;
use crate::poll::{Interest, Token};
use crate::socket;

const SIGKILL: i32 = 9;
const LARGEST_SIGNAL: i32 = 64;

/// Far from the limit of descriptors: a monitor that has none left could not accept the daemon that would help.
const MOST_EXECS: usize = 256;
const MOST_CLIENTS: usize = 64;

/// An answer that is there at once; `None` where it comes later.
type Said = Result<Option<(Answer, Vec<OwnedFd>)>, Error>;

fn say(answer: Answer) -> Said {
    Ok(Some((answer, Vec::new())))
}

fn done() -> Said {
    say(Answer::Done(wire::Done {}))
}

impl Monitor {
    /// Does what one request asks and answers it.
    pub(crate) fn request(&mut self, peer: usize, request: wire::Request) {
        let (peer_id, id) = (self.peers[peer].id, request.id);
        let said = match request.verb {
            // What the other side speaks is its affair: the protocol only grows.
            Some(Verb::Hello(_)) => say(Answer::Hello(wire::Hello {
                version: wire::VERSION,
                pid: sys::process::own_pid(),
            })),
            Some(Verb::Create(create)) => {
                let fds = if create.rootfs_fd || !create.mount_fds.is_empty() {
                    self.peers[peer].take_fds()
                } else {
                    Vec::new()
                };
                self.create(&create, &fds)
            }
            Some(Verb::Start(_)) => self.start(),
            Some(Verb::Kill(kill)) => self.kill(&kill),
            Some(Verb::Exec(exec)) => self.exec(&exec, peer_id, id),
            Some(Verb::KillExec(kill)) => self.kill_exec(&kill),
            Some(Verb::Attach(_)) => self.attach(),
            Some(Verb::ReopenLog(_)) => self.reopen_log(),
            Some(Verb::Resize(resize)) => self.resize(&resize),
            Some(Verb::GetState(_)) => say(Answer::State(self.state())),
            Some(Verb::Discard(_)) => {
                if self.discard((peer_id, id)) {
                    Ok(None)
                } else {
                    done()
                }
            }
            None => Err(Error::state(
                Kind::Unimplemented,
                "this monitor does not know that verb: it is older than the daemon",
            )),
        };
        match said {
            Ok(Some((answer, fds))) => self.answer(peer_id, id, answer, fds),
            Ok(None) => {}
            Err(error) => self.answer(peer_id, id, Answer::Failure(error.to_wire()), Vec::new()),
        }
    }

    /// Answers a request of before; whoever asked may have gone.
    fn answer(&mut self, peer: u32, request: u64, answer: Answer, fds: Vec<OwnedFd>) {
        if let Some(peer) = self.peers.iter_mut().find(|one| one.id == peer) {
            peer.reply(request, answer, fds);
        }
    }

    pub(crate) fn done(&mut self, peer: u32, request: u64) {
        self.answer(peer, request, Answer::Done(wire::Done {}), Vec::new());
    }

    fn create(&mut self, request: &wire::Create, fds: &[OwnedFd]) -> Said {
        if !matches!(self.phase, Phase::Starting) {
            return Err(Error::too_early_or_late("this monitor has a container already"));
        }
        if fds.len() != usize::from(request.rootfs_fd) + request.mount_fds.len() {
            return Err(Error::state(
                Kind::InvalidArgument,
                format!(
                    "{} descriptors came with Create, not that of the root and {} of mounts",
                    fds.len(),
                    request.mount_fds.len()
                ),
            ));
        }
        let state_dir = open_dir(&request.state_dir)?;
        let listener = socket::listen(&state_dir)?;
        let seed = self.seed.take();
        let container = match Container::create(request, fds, seed.as_ref()) {
            Ok(container) => container,
            Err(error) => {
                socket::remove(&state_dir);
                return Err(error);
            }
        };
        let created = &container.created;
        let answer = wire::Created {
            pid: created.pid,
            uid: created.user.uid,
            gid: created.user.gid,
            additional_gids: created.user.additional_gids.clone(),
            clamped: created.clamped.clone(),
        };
        let name: String = format!("conmon:{}", request.container_id).chars().take(15).collect();
        if let Ok(name) = std::ffi::CString::new(name) {
            // A name for ps, no more.
            sys::prctl::set_name(&name).ok();
        }
        let watched = self.watch_container(&container, &listener);
        self.container = Some(container);
        self.state_dir = Some(state_dir);
        self.listener = Some(listener);
        self.phase = Phase::Created;
        if let Err(error) = watched {
            self.end(None);
            return Err(error);
        }
        // The bundle and the request have been through this heap; what follows needs little.
        sys::memory::trim();
        say(Answer::Created(answer))
    }

    fn watch_container(&self, container: &Container, listener: &OwnedFd) -> Result<(), Error> {
        let at = |error| Error::io("watch", "the container", error);
        self.poll.add(listener, Token::Listener, Interest::Read).map_err(at)?;
        self.poll
            .add(container.pidfd(), Token::Init, Interest::Read)
            .map_err(at)?;
        for (index, output) in container.outputs.iter().enumerate() {
            let Some(output) = output else { continue };
            let index = u32::from(index != 0);
            self.poll
                .add(&output.fd, Token::Output(index), Interest::Read)
                .map_err(at)?;
        }
        container
            .oom
            .as_ref()
            .map_or(Ok(()), |watch| self.poll.add(watch, Token::Oom, Interest::Read))
            .map_err(at)
    }

    fn start(&mut self) -> Said {
        let Some(container) = self.container.as_mut().filter(|_| matches!(self.phase, Phase::Created)) else {
            return Err(Error::too_early_or_late("the container is not in the created state"));
        };
        // Before, not after: what runs must not seem to have run for less time than it did.
        let started_at = clock::nanoseconds();
        match container.created.start() {
            Ok(warning) => {
                self.phase = Phase::Running { started_at };
                let warnings = warning.map(|error| error.chain().join(": ")).into_iter().collect();
                say(Answer::Started(wire::Started { started_at, warnings }))
            }
            Err(error) => {
                let error = Error::from(error);
                // The record and its event follow the answer.
                self.end(Some(exit::start_error(error.chain().join(": "), clock::nanoseconds())));
                Err(error)
            }
        }
    }

    fn kill(&mut self, kill: &wire::Kill) -> Said {
        check_signal(kill.signal)?;
        if matches!(self.phase, Phase::Ending(_)) {
            // What is left is being killed anyway.
            return done();
        }
        if kill.signal == SIGKILL {
            let container = self.container_mut()?;
            let (kills, pid) = (container.oom_kills(), container.created.pid);
            let is_well = !self.is_init_reaped && oom::is_well(pid);
            self.oom.killing(kills, is_well);
            if is_well {
                self.container_mut()?.settle_oom();
            }
        }
        let container = self.container()?;
        let sent = sys::process::pidfd_signal(container.pidfd(), kill.signal);
        // ESRCH: it has ended, and is about to be reaped.
        if let Err(error) = sent.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) }) {
            return Err(Error::io("signal", format!("process {}", container.created.pid), error));
        }
        if kill.all && kill.signal == SIGKILL {
            container.cgroup.kill()?;
        } else if kill.all {
            for pid in container
                .cgroup
                .procs()?
                .into_iter()
                .filter(|pid| *pid != container.created.pid)
            {
                // It may end meanwhile: then there is nobody to signal.
                sys::process::pidfd_open(pid)
                    .and_then(|pidfd| sys::process::pidfd_signal(pidfd.as_fd(), kill.signal))
                    .ok();
            }
        }
        done()
    }

    fn exec(&mut self, request: &wire::Exec, peer: u32, id: u64) -> Said {
        let now = Instant::now();
        if !matches!(self.phase, Phase::Running { .. }) {
            return Err(Error::too_early_or_late("the container is not running"));
        }
        if self.starting.len() + self.execs.len() >= MOST_EXECS {
            return Err(Error::state(
                Kind::ResourceExhausted,
                format!("{MOST_EXECS} processes are being executed in this container"),
            ));
        }
        let container = self.container()?;
        let (stdio, pipes) = if request.terminal {
            (isolation::Stdio::Terminal, Vec::new())
        } else {
            let ends = io::pipes(request.stdin)?;
            let [stdin, stdout, stderr] = ends.process;
            let ours = ends.stdin.into_iter().chain([ends.stdout, ends.stderr]).collect();
            (isolation::Stdio::Pipes { stdin, stdout, stderr }, ours)
        };
        let pending = isolation::exec(isolation::ExecRequest {
            init: container.pidfd(),
            init_pid: container.created.pid,
            bundle: &container.bundle,
            process_json: &request.process_json,
            stdio,
            cgroup_path: container.cgroup.path(),
            driver: container.driver,
            keeps_orphans: request.timeout_ms > 0,
        })?;
        let exec_id = self.new_id();
        self.poll
            .add(pending.as_fd(), Token::Starting(exec_id), Interest::Read)
            .map_err(|error| Error::io("watch", "an exec", error))?;
        self.starting.push(Starting {
            id: exec_id,
            pending,
            peer,
            request: id,
            deadline: (request.timeout_ms > 0).then(|| now + Duration::from_millis(request.timeout_ms)),
            pipes,
            size: (request.columns > 0 && request.rows > 0).then(|| size(request.columns, request.rows)),
        });
        Ok(None)
    }

    /// An exec has reached execve, or failed.
    pub(crate) fn exec_started(&mut self, id: u32) -> std::io::Result<()> {
        let Some(index) = self.starting.iter().position(|one| one.id == id) else {
            return Ok(());
        };
        let starting = self.starting.swap_remove(index);
        self.poll.remove(starting.pending.as_fd());
        let execed = match starting.pending.finish() {
            Ok(execed) => execed,
            Err(error) => {
                let failure = Error::from(error).to_wire();
                self.answer(starting.peer, starting.request, Answer::Failure(failure), Vec::new());
                return Ok(());
            }
        };
        let mut fds = starting.pipes;
        if let Some(console) = execed.console {
            if let Some((columns, rows)) = starting.size {
                // The program runs already; process.consoleSize is what it started with.
                sys::tty::set_size(console.as_fd(), columns, rows).ok();
            }
            fds.push(console);
        }
        let running = Running {
            id,
            pid: execed.pid,
            pidfd: execed.pidfd,
            deadline: starting.deadline,
            timed_out: false,
        };
        self.poll.add(&running.pidfd, Token::Exec(id), Interest::Read)?;
        if !self.peers.iter().any(|peer| peer.id == starting.peer)
            && let Some(container) = &self.container
        {
            // Nobody holds its streams or waits for it.
            running.signal(SIGKILL, &container.cgroup).ok();
        }
        let answer = wire::ExecStarted {
            exec_id: u64::from(id),
            pid: running.pid,
        };
        self.execs.push(running);
        self.answer(starting.peer, starting.request, Answer::ExecStarted(answer), fds);
        Ok(())
    }

    fn kill_exec(&mut self, kill: &wire::KillExec) -> Said {
        check_signal(kill.signal)?;
        let container = self.container()?;
        let Some(exec) = self.execs.iter().find(|exec| u64::from(exec.id) == kill.exec_id) else {
            return Err(Error::state(
                Kind::NotFound,
                format!("there is no exec {}; it may have ended", kill.exec_id),
            ));
        };
        exec.signal(kill.signal, &container.cgroup)?;
        done()
    }

    fn attach(&mut self) -> Said {
        if !matches!(self.phase, Phase::Created | Phase::Running { .. }) {
            return Err(Error::too_early_or_late("the container is not running"));
        }
        let id = self.new_id();
        let container = self.container_mut()?;
        if container.clients.len() >= MOST_CLIENTS {
            return Err(Error::state(
                Kind::ResourceExhausted,
                format!("{MOST_CLIENTS} clients are attached to this container"),
            ));
        }
        let (client, theirs) = Client::new(id)?;
        container.clients.push(client);
        Ok(Some((Answer::Done(wire::Done {}), vec![theirs])))
    }

    fn reopen_log(&mut self) -> Said {
        if matches!(self.phase, Phase::Ending(_)) {
            return Err(Error::too_early_or_late("the container is not running"));
        }
        self.container_mut()?.reopen_log()?;
        done()
    }

    fn resize(&mut self, resize: &wire::Resize) -> Said {
        let (columns, rows) = size(resize.columns, resize.rows);
        self.container()?.resize(columns, rows)?;
        done()
    }

    fn state(&self) -> wire::State {
        let pid = self.container.as_ref().map_or(0, |container| container.created.pid);
        let (status, started_at, exited) = match &self.phase {
            Phase::Starting => (wire::Status::Creating, 0, None),
            Phase::Created => (wire::Status::Created, 0, None),
            Phase::Running { started_at } => (wire::Status::Running, *started_at, None),
            Phase::Ending(ending) => {
                let started_at = ending.record.as_ref().map_or(0, |record| record.started_at);
                (wire::Status::Exited, started_at, ending.exited())
            }
        };
        wire::State {
            status: status.into(),
            pid,
            started_at,
            exited,
        }
    }

    fn container(&self) -> Result<&Container, Error> {
        self.container
            .as_ref()
            .ok_or_else(|| Error::too_early_or_late("there is no container yet"))
    }

    fn container_mut(&mut self) -> Result<&mut Container, Error> {
        self.container
            .as_mut()
            .ok_or_else(|| Error::too_early_or_late("there is no container yet"))
    }
}

fn check_signal(signal: i32) -> Result<(), Error> {
    if (0..=LARGEST_SIGNAL).contains(&signal) {
        return Ok(());
    }
    Err(Error::state(
        Kind::InvalidArgument,
        format!("signal {signal} does not exist"),
    ))
}

fn is_gone(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// A terminal's size has 16 bits each way.
fn size(columns: u32, rows: u32) -> (u16, u16) {
    let narrow = |value| u16::try_from(value).unwrap_or(u16::MAX);
    (narrow(columns), narrow(rows))
}

fn open_dir(path: &str) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, Path::new(path), flags, Mode::empty()).map_err(|errno| Error::io("open", path, errno.into()))
}
