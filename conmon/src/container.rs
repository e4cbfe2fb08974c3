//! The container that this monitor is the parent of: its process, its cgroup, its output and who listens.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cgroup::{Cgroup, OomCounter, OomWatch};
use proto::monitor as wire;
use sys::process::Exit;

use crate::attach::Client;
use crate::error::Error;
use crate::io::{self, Input};
use crate::log::clock::Clock;
use crate::log::{Lines, LogFile, Stream};

/// Read at once: as much as a pipe holds.
const CHUNK: usize = 64 * 1024;
const DEFAULT_LINE: u32 = 16_384;
const LONGEST_LINE: u32 = 1 << 20;

/// One of the container's output streams.
pub(crate) struct Output {
    pub(crate) fd: OwnedFd,
    stream: Stream,
    lines: Lines,
}

/// The container.
pub(crate) struct Container {
    pub(crate) bundle: PathBuf,
    pub(crate) created: isolation::Created,
    pub(crate) cgroup: Cgroup,
    pub(crate) driver: cgroup::DriverKind,
    pub(crate) input: Input,
    /// stdout (or the terminal), stderr; `None` after their end.
    pub(crate) outputs: [Option<Output>; 2],
    pub(crate) is_terminal: bool,
    pub(crate) log: LogFile,
    pub(crate) clients: Vec<Client>,
    pub(crate) oom: Option<OomWatch>,
    /// None where there is no memory controller.
    oom_counter: Option<OomCounter>,
    oom_at_start: u64,
    clock: Clock,
    chunk: Vec<u8>,
}

impl Container {
    /// Makes it from the mounts of `seed`, up to just before execve. `fds` are those that [`wire::Create`] names.
    pub(crate) fn create(request: &wire::Create, fds: &[OwnedFd], seed: Option<&OwnedFd>) -> Result<Self, Error> {
        let (rootfs, mounts) = fds.split_at(usize::from(request.rootfs_fd).min(fds.len()));
        let places = request.mount_fds.iter().map(|place| *place as usize);
        let driver = request
            .cgroup_driver
            .parse::<cgroup::DriverKind>()
            .map_err(|error| Error::state(spec::Kind::InvalidArgument, error.to_string()))?;
        let bundle = PathBuf::from(&request.bundle);
        // The log first: where it cannot be written nothing has been made yet.
        let log = LogFile::open(&request.log_path)?;
        let is_terminal = wants_terminal(&bundle)?;
        let (stdio, ours) = if is_terminal {
            (isolation::Stdio::Terminal, None)
        } else {
            let ends = io::pipes(request.stdin)?;
            let [stdin, stdout, stderr] = ends.process;
            (
                isolation::Stdio::Pipes { stdin, stdout, stderr },
                Some((ends.stdin, ends.stdout, ends.stderr)),
            )
        };
        let created = isolation::create(isolation::CreateRequest {
            id: &request.container_id,
            bundle: &bundle,
            rootfs: rootfs.first().map(|fd| fd.as_fd()),
            mounts: places.zip(mounts).map(|(place, fd)| (place, fd.as_fd())).collect(),
            seed: seed.map(|fd| fd.as_fd()),
            driver,
            stdio,
        })?;
        let cgroup = match cgroup::Host::shared().and_then(|host| host.open(&created.cgroup_path)) {
            Ok(cgroup) => cgroup,
            Err(error) => {
                undo(&created, None);
                return Err(error.into());
            }
        };
        Self::adopt(Parts {
            request,
            bundle,
            driver,
            log,
            is_terminal,
            ours,
            created,
            cgroup,
        })
    }

    /// Takes charge of what was made; where that fails, it is unmade.
    fn adopt(parts: Parts<'_>) -> Result<Self, Error> {
        let Parts {
            request,
            bundle,
            driver,
            log,
            is_terminal,
            ours,
            mut created,
            cgroup,
        } = parts;
        let (input, outputs) = match streams(request, is_terminal, ours, &mut created) {
            Ok(streams) => streams,
            Err(error) => {
                undo(&created, Some(&cgroup));
                return Err(error);
            }
        };
        let oom = match cgroup.watch_oom() {
            Ok(watch) => Some(watch),
            // Without a memory controller there is no verdict either.
            Err(cgroup::Error::Missing { .. }) => None,
            Err(error) => {
                let why = error.to_string();
                created
                    .clamped
                    .push(format!("OOM kills are told at the end only: {why}"));
                None
            }
        };
        // It fails for want of a memory controller alone.
        let mut oom_counter = cgroup.oom_counter().ok();
        let oom_at_start = oom_counter.as_mut().map_or(0, |counter| counter.kills(|| false));
        Ok(Self {
            bundle,
            cgroup,
            driver,
            input,
            outputs,
            is_terminal,
            log,
            clients: Vec::new(),
            oom,
            oom_counter,
            oom_at_start,
            created,
            clock: Clock::new(),
            chunk: Vec::new(),
        })
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.created.pidfd.as_fd()
    }

    /// How the first process ended, if it has.
    pub(crate) fn ended(&self) -> Option<Exit> {
        // ECHILD cannot be: nobody else waits for it. If it could, SIGKILL is what an unknown end looks like.
        sys::process::try_wait_pidfd(self.pidfd()).unwrap_or(Some(Exit::Signal(9)))
    }

    /// OOM kills since the container was made.
    pub(crate) fn oom_kills(&mut self) -> u64 {
        let Some(counter) = &mut self.oom_counter else { return 0 };
        let watch = &mut self.oom;
        // Without a watch nobody can tell whose a kill was.
        let was_told = || watch.as_mut().is_some_and(OomWatch::was_told_lately);
        counter.kills(was_told).saturating_sub(self.oom_at_start)
    }

    /// Its death will be our doing.
    pub(crate) fn settle_oom(&mut self) {
        if let Some(counter) = &mut self.oom_counter {
            counter.settle();
        }
    }

    /// Reads a stream once: log and clients get it. Returns its descriptor at its end.
    pub(crate) fn read_output(&mut self, index: usize) -> Option<OwnedFd> {
        let output = self.outputs.get_mut(index)?.as_mut()?;
        if self.chunk.is_empty() {
            self.chunk = vec![0; CHUNK];
        }
        let count = io::read(output.fd.as_fd(), &mut self.chunk)?;
        let stamp = self.clock.now();
        let mut batch = self.log.batch();
        if count > 0 {
            let bytes = &self.chunk[..count];
            for client in &mut self.clients {
                client.send(output.stream, bytes);
            }
            if !self.log.is_discarding() {
                let (log, clock) = (&mut self.log, &mut self.clock);
                output
                    .lines
                    .push(bytes, &stamp, &mut batch, |batch| log.relieve(batch, clock));
            }
        } else {
            output.lines.finish(&stamp, &mut batch);
        }
        self.log.flush(batch, &mut self.clock);
        if count > 0 {
            None
        } else {
            self.outputs[index].take().map(|output| output.fd)
        }
    }

    /// What is left of a stream that will not be read any more.
    pub(crate) fn abandon_output(&mut self, index: usize) -> Option<OwnedFd> {
        let mut output = self.outputs.get_mut(index)?.take()?;
        let stamp = self.clock.now();
        let mut batch = self.log.batch();
        output.lines.finish(&stamp, &mut batch);
        self.log.flush(batch, &mut self.clock);
        Some(output.fd)
    }

    /// Opens the log again; what was read before is in the old file.
    pub(crate) fn reopen_log(&mut self) -> Result<(), Error> {
        self.log.reopen(&mut self.clock)
    }

    /// Sets the size of the terminal.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        if !self.is_terminal {
            return Err(Error::too_early_or_late("the container has no terminal"));
        }
        // Its end has come already: nothing to resize, nothing wrong.
        let Some(output) = &self.outputs[0] else { return Ok(()) };
        sys::tty::set_size(output.fd.as_fd(), columns, rows).map_err(|error| Error::io("resize", "the terminal", error))
    }

    /// Whether a busy moment has left memory to give back.
    pub(crate) fn has_buffers(&self) -> bool {
        !self.chunk.is_empty()
    }

    /// Gives it back.
    pub(crate) fn rest(&mut self) {
        self.chunk = Vec::new();
        self.log.rest();
    }
}

/// Our ends of three pipes.
type PipeEnds = (Option<OwnedFd>, OwnedFd, OwnedFd);

/// What a container is put together from.
struct Parts<'a> {
    request: &'a wire::Create,
    bundle: PathBuf,
    driver: cgroup::DriverKind,
    log: LogFile,
    is_terminal: bool,
    ours: Option<PipeEnds>,
    created: isolation::Created,
    cgroup: Cgroup,
}

fn streams(
    request: &wire::Create,
    is_terminal: bool,
    ours: Option<PipeEnds>,
    created: &mut isolation::Created,
) -> Result<(Input, [Option<Output>; 2]), Error> {
    let (stdin, stdout, stderr) = match ours {
        Some((stdin, stdout, stderr)) => (stdin, stdout, Some(stderr)),
        None => {
            let console = created
                .console
                .take()
                .ok_or_else(|| Error::state(spec::Kind::Internal, "no terminal was made"))?;
            let stdin = if request.stdin {
                Some(dup(console.as_fd())?)
            } else {
                None
            };
            (stdin, console, None)
        }
    };
    let max = if request.max_log_line == 0 {
        DEFAULT_LINE
    } else {
        request.max_log_line.min(LONGEST_LINE)
    };
    let output = |fd: OwnedFd, stream| -> Result<Output, Error> {
        nonblocking(&fd)?;
        Ok(Output {
            fd,
            stream,
            lines: Lines::new(stream, max as usize),
        })
    };
    stdin.as_ref().map_or(Ok(()), nonblocking)?;
    let outputs = [
        Some(output(stdout, Stream::Stdout)?),
        stderr.map(|fd| output(fd, Stream::Stderr)).transpose()?,
    ];
    Ok((Input::new(stdin, is_terminal, request.stdin_once), outputs))
}

/// Unmakes what cannot be taken charge of; the error that led here is the one to tell.
fn undo(created: &isolation::Created, cgroup: Option<&Cgroup>) {
    sys::process::pidfd_signal(created.pidfd.as_fd(), 9).ok();
    sys::process::wait_pidfd(created.pidfd.as_fd()).ok();
    if let Some(cgroup) = cgroup {
        // The daemon removes it again when the creation has failed, and tells of what it cannot remove.
        cgroup.kill().and_then(|()| cgroup.remove()).ok();
    }
}

fn dup(fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    io::duplicate(fd).map_err(|error| Error::io("duplicate", "the terminal", error))
}

fn nonblocking(fd: &OwnedFd) -> Result<(), Error> {
    rustix::io::ioctl_fionbio(fd, true).map_err(|errno| Error::io("set up", "a stream of the container", errno.into()))
}

/// Whether `process.terminal` is set in config.json. Only that: the plan is made by `isolation`, in a process of its own.
fn wants_terminal(bundle: &Path) -> Result<bool, Error> {
    #[derive(serde::Deserialize)]
    struct Config {
        process: Option<Process>,
    }
    #[derive(serde::Deserialize)]
    struct Process {
        #[serde(default)]
        terminal: bool,
    }
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).map_err(|error| Error::io("read", path.display(), error))?;
    let config: Config = serde_json::from_slice(&text)
        .map_err(|error| Error::state(spec::Kind::InvalidArgument, format!("{}: {error}", path.display())))?;
    Ok(config.process.is_some_and(|process| process.terminal))
}
