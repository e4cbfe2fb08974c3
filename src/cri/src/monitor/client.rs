//! The connection to one monitor.
//!
//! One task owns the socket: it writes requests in the order they were queued, hands each
//! reply to who asked for it by its id, and publishes the container's end. Requests may be
//! abandoned: an exec whose caller went away before its reply is killed at once.
//!
//! The connection ends when the monitor ends (after it has told of the exit), when the
//! last `Client` is dropped, or on the first thing that is no protocol. If it ends before
//! the exit was told, the outcome is `Lost`, and `container/exit.rs` looks for the exit
//! record before it believes that.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use proto::monitor::{self as wire, frame::Body, reply, request::Verb};
use rustix::fs::{Mode, OFlags};
use spec::Kind;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use super::frame::{self, Input};
use crate::error::Error;
use crate::fdio;

/// Of all monitors of this daemon.
static OOMS: AtomicU64 = AtomicU64::new(0);

/// How often monitors have told that the OOM killer was at work.
pub(crate) fn ooms() -> u64 {
    OOMS.load(Ordering::Relaxed)
}

/// What is known of the container's end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// It has not ended.
    Alive,
    /// The monitor told how.
    Exited(wire::Exited),
    /// The connection ended without a word.
    Lost,
}

/// A reply with what came with it.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The reply.
    pub(crate) result: reply::Result,
    /// Descriptors, in the order that the protocol names.
    pub(crate) fds: Vec<OwnedFd>,
    /// For an exec: its end.
    pub(crate) exec_end: Option<oneshot::Receiver<wire::ExecExited>>,
}

struct Call {
    verb: Verb,
    fds: Vec<OwnedFd>,
    reply: Option<oneshot::Sender<Result<Answer, Error>>>,
}

/// A handle on the connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    calls: mpsc::Sender<Call>,
    outcome: watch::Receiver<Outcome>,
}

impl Client {
    /// Starts the task on a connected socket and says Hello.
    pub(crate) async fn start(socket: OwnedFd) -> Result<Self, Error> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(|e| Error::at("set up", "the monitor's socket", &e))?;
        let socket = fdio::register(socket).map_err(|e| Error::at("watch", "the monitor's socket", &e))?;
        let (calls, queue) = mpsc::channel(64);
        let (told, outcome) = watch::channel(Outcome::Alive);
        tokio::spawn(Connection::new(socket, told).run(queue));
        let client = Self { calls, outcome };
        let hello = Verb::Hello(wire::Hello {
            version: wire::VERSION,
            pid: 0,
        });
        match client.call(hello, vec![], Duration::from_secs(10)).await?.result {
            reply::Result::Hello(_) => Ok(client),
            other => Err(unexpected("Hello", &other)),
        }
    }

    /// Connects to the monitor that listens in `dir`.
    pub(crate) async fn connect(dir: &Path) -> Result<Self, Error> {
        let at = |e: &io::Error| Error::at("connect to the monitor in", dir.display(), e);
        let handle = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| at(&e.into()))?;
        // sun_path holds 108 bytes; through the directory's handle no path is too long.
        let path = format!(
            "/proc/self/fd/{}/{}",
            std::os::fd::AsRawFd::as_raw_fd(&handle),
            spec::exit::SOCKET
        );
        let stream = tokio::net::UnixStream::connect(&path).await.map_err(|e| at(&e))?;
        let socket = stream.into_std().map_err(|e| at(&e))?;
        Self::start(socket.into()).await
    }

    /// Asks and waits for the reply; a Failure becomes an error of its kind.
    pub(crate) async fn call(&self, verb: Verb, fds: Vec<OwnedFd>, deadline: Duration) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        self.calls
            .send(Call {
                verb,
                fds,
                reply: Some(reply),
            })
            .await
            .map_err(|_| gone())?;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(Error::new(
                Kind::DeadlineExceeded,
                format!(
                    "the monitor did not answer within {} s; see whether it hangs",
                    deadline.as_secs()
                ),
            )),
        }
    }

    /// Asks for something that is answered with Done.
    pub(crate) async fn done(&self, verb: Verb, deadline: Duration) -> Result<(), Error> {
        match self.call(verb, vec![], deadline).await?.result {
            reply::Result::Done(_) => Ok(()),
            other => Err(unexpected("Done", &other)),
        }
    }

    /// Asks without waiting and without caring; for places that cannot wait.
    pub(crate) fn post(&self, verb: Verb) {
        // A full queue or an ended monitor: there is nobody left who could obey.
        drop(self.calls.try_send(Call {
            verb,
            fds: vec![],
            reply: None,
        }));
    }

    /// The container's end, as soon as it is known.
    pub(crate) fn outcome(&self) -> watch::Receiver<Outcome> {
        self.outcome.clone()
    }
}

fn gone() -> Error {
    Error::new(Kind::Unavailable, "the container's monitor has ended")
}

/// The error of a reply that does not belong to the request.
pub(crate) fn unexpected(wanted: &str, got: &reply::Result) -> Error {
    Error::new(
        Kind::Internal,
        format!("the monitor answered {got:?} where {wanted} was expected"),
    )
}

/// The error that a Failure carries.
pub(crate) fn failure(failure: &wire::Failure) -> Error {
    Error::new(Kind::from_name(&failure.kind), failure.chain.join(": "))
}

struct Waiting {
    /// A success of this verb brings descriptors.
    wants_fds: bool,
    reply: oneshot::Sender<Result<Answer, Error>>,
}

struct Outgoing {
    bytes: Bytes,
    fds: Vec<OwnedFd>,
}

struct Connection {
    socket: AsyncFd<OwnedFd>,
    told: watch::Sender<Outcome>,
    input: Input,
    output: VecDeque<Outgoing>,
    waiting: HashMap<u64, Waiting>,
    execs: HashMap<u64, oneshot::Sender<wire::ExecExited>>,
    next_id: u64,
    /// The monitor has told of the OOM killer.
    oom_told: bool,
}

/// Who ended a connection.
enum End {
    Ours,
    Theirs,
}

impl Connection {
    fn new(socket: AsyncFd<OwnedFd>, told: watch::Sender<Outcome>) -> Self {
        Self {
            socket,
            told,
            input: Input::default(),
            output: VecDeque::new(),
            waiting: HashMap::new(),
            execs: HashMap::new(),
            next_id: 1,
            oom_told: false,
        }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Call>) {
        match self.serve(&mut queue).await {
            // The monitor lives on and nothing is known of it: whoever waits sees this sender go.
            Ok(End::Ours) => return,
            Ok(End::Theirs) => {}
            Err(error) => tracing::debug!(%error, "a monitor's connection ended"),
        }
        self.told.send_if_modified(|outcome| {
            let unknown = *outcome == Outcome::Alive;
            if unknown {
                *outcome = Outcome::Lost;
            }
            unknown
        });
    }

    /// Until the monitor ends, or nobody holds a `Client` any more, or the daemon ends.
    async fn serve(&mut self, queue: &mut mpsc::Receiver<Call>) -> io::Result<End> {
        loop {
            tokio::select! {
                call = queue.recv(), if self.output.len() < 64 => match call {
                    Some(call) => self.enqueue(call),
                    None => {
                        self.finish().await?;
                        return Ok(End::Ours);
                    }
                },
                ready = self.socket.readable() => {
                    // The socket itself has no errors here: the runtime is being shut down.
                    let Ok(mut ready) = ready else { return Ok(End::Ours) };
                    match ready.try_io(|socket| self.input.fill(socket.get_ref().as_fd())) {
                        Ok(Ok(true)) => {}
                        Ok(Ok(false)) => return Ok(End::Theirs),
                        Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                        Ok(Err(e)) => return Err(e),
                        Err(_would_block) => continue,
                    }
                    while let Some(frame) = self.input.take()? {
                        self.dispatch(frame);
                    }
                }
                ready = self.socket.writable(), if !self.output.is_empty() => {
                    let Ok(mut ready) = ready else { return Ok(End::Ours) };
                    if let Some(first) = self.output.front_mut() {
                        match ready.try_io(|socket| frame::send(socket.get_ref().as_fd(), &first.bytes, &first.fds)) {
                            Ok(Ok(sent)) => {
                                first.fds.clear();
                                first.bytes.advance(sent);
                                if first.bytes.is_empty() {
                                    self.output.pop_front();
                                }
                            }
                            Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                            Ok(Err(e)) => return Err(e),
                            Err(_would_block) => {}
                        }
                    }
                }
            }
        }
    }

    /// Sends what is queued still, for at most a moment.
    async fn finish(&mut self) -> io::Result<()> {
        let all = async {
            while let Some(first) = self.output.front_mut() {
                let mut ready = self.socket.writable().await?;
                if let Ok(sent) = ready.try_io(|s| frame::send(s.get_ref().as_fd(), &first.bytes, &first.fds)) {
                    first.fds.clear();
                    first.bytes.advance(sent?);
                    if first.bytes.is_empty() {
                        self.output.pop_front();
                    }
                }
            }
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(1), all)
            .await
            .unwrap_or(Ok(()))
    }

    fn enqueue(&mut self, call: Call) {
        let id = self.next_id;
        self.next_id += 1;
        let wants_fds = matches!(call.verb, Verb::Exec(_) | Verb::Attach(_));
        let frame = wire::Frame {
            body: Some(Body::Request(wire::Request {
                id,
                verb: Some(call.verb),
            })),
        };
        match proto::frame::encode(&frame) {
            Ok(bytes) => {
                let bytes = Bytes::from(bytes);
                if let Some(reply) = call.reply {
                    self.waiting.insert(id, Waiting { wants_fds, reply });
                }
                self.output.push_back(Outgoing { bytes, fds: call.fds });
            }
            Err(e) => {
                if let Some(reply) = call.reply {
                    drop(reply.send(Err(Error::at("send to", "the monitor", &e))));
                }
            }
        }
    }

    fn dispatch(&mut self, frame: wire::Frame) {
        match frame.body {
            Some(Body::Reply(wire::Reply {
                id,
                result: Some(result),
            })) => self.reply(id, result),
            Some(Body::Event(wire::Event { what: Some(what) })) => match what {
                wire::event::What::Exited(exited) => {
                    // It may have died of it before its monitor heard.
                    if exited.oom_killed && !self.oom_told {
                        OOMS.fetch_add(1, Ordering::Relaxed);
                    }
                    self.told.send_replace(Outcome::Exited(exited));
                }
                wire::event::What::ExecExited(end) => {
                    if let Some(waiter) = self.execs.remove(&end.exec_id)
                        && waiter.send(end).is_err()
                    {
                        tracing::trace!("nobody waits for the end of an exec any more");
                    }
                }
                // The verdict comes with the exit; an OOM that init survived is a counter.
                wire::event::What::OutOfMemory(_) => {
                    self.oom_told = true;
                    OOMS.fetch_add(1, Ordering::Relaxed);
                }
            },
            // Of a newer monitor: the protocol only grows, what is unknown is left alone.
            _ => {}
        }
    }

    fn reply(&mut self, id: u64, result: reply::Result) {
        // An order that failed: there is no monitor that could answer more.
        if let (0, reply::Result::Failure(f)) = (id, &result) {
            for (_, waiting) in self.waiting.drain() {
                drop(waiting.reply.send(Err(failure(f))));
            }
            return;
        }
        let waiter = self.waiting.remove(&id);
        let answer = match result {
            reply::Result::Failure(f) => Err(failure(&f)),
            result => {
                let wants_fds = waiter.as_ref().is_some_and(|w| w.wants_fds);
                let fds = if wants_fds { self.input.take_fds() } else { vec![] };
                let exec_end = if let reply::Result::ExecStarted(started) = &result {
                    let (sender, receiver) = oneshot::channel();
                    self.execs.insert(started.exec_id, sender);
                    Some(receiver)
                } else {
                    None
                };
                Ok(Answer { result, fds, exec_end })
            }
        };
        let unclaimed = match waiter {
            Some(waiter) => waiter.reply.send(answer).err(),
            None => Some(answer),
        };
        if let Some(Ok(Answer {
            result: reply::Result::ExecStarted(started),
            ..
        })) = unclaimed
        {
            self.execs.remove(&started.exec_id);
            let kill = wire::KillExec {
                exec_id: started.exec_id,
                signal: 9,
            };
            self.enqueue(Call {
                verb: Verb::KillExec(kill),
                fds: vec![],
                reply: None,
            });
        }
    }
}
