//! The one owner of a container: fed by one event loop, it alone changes state.
//!
//! ```text
//! Starting ──Create──▶ Created ──Start──▶ Running ──init ends──▶ Ending ──▶ (the process ends)
//!     │                  └───────── StartError, Discard, init ends ──▲
//!     └── the daemon goes away: nothing has been made, the process ends
//! ```
//!
//! One thread, no timers but the timeout of epoll, no memory that grows: what waits for a slow reader is bounded, and
//! the reader pays. What daemons say is in `verbs`, the way out in `ending`.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use proto::monitor::{ExecExited, OutOfMemory, event};
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{WaitOptions, WaitStatus};
use sys::process::Exit;

use crate::attach::{Packet, PacketBuffer};
use crate::container::Container;
use crate::ending::Ending;
use crate::exec::{self, Running, Starting};
use crate::exit::{self, Kills};
use crate::io::Input;
use crate::log::clock;
use crate::oom::{self, Oom};
use crate::poll::{Interest, Poller, Ready, Token};
use crate::rpc::Peer;
use crate::socket;

/// SIGCHLD for orphans of the container; the others are for daemons, not for us.
const SIGNALS: [i32; 5] = [1, 2, 10, 15, 17];

/// When memory is given back after output stopped.
const REST_AFTER: Duration = Duration::from_secs(1);

/// When a process that outlived its deadline, and could not be killed, is killed again.
const KILL_AGAIN: Duration = Duration::from_millis(500);

const MOST_PEERS: usize = 16;

/// Packets taken from one client in one turn.
const PACKETS_A_TURN: usize = 16;

pub(crate) enum Phase {
    Starting,
    Created,
    Running { started_at: i64 },
    Ending(Ending),
}

/// The monitor.
pub(crate) struct Monitor {
    pub(crate) poll: Poller,
    signals: OwnedFd,
    pub(crate) listener: Option<OwnedFd>,
    pub(crate) state_dir: Option<OwnedFd>,
    pub(crate) peers: Vec<Peer>,
    peer_interests: Vec<(u32, Interest)>,
    pub(crate) phase: Phase,
    pub(crate) container: Option<Container>,
    pub(crate) is_init_reaped: bool,
    client_interests: Vec<(u32, Interest)>,
    is_stdin_watched: bool,
    pub(crate) starting: Vec<Starting>,
    pub(crate) execs: Vec<Running>,
    last_id: u32,
    pub(crate) oom: Oom,
    rest_at: Option<Instant>,
    /// Of the mounts that the container begins from, until it is made.
    pub(crate) seed: Option<OwnedFd>,
}

impl Monitor {
    pub(crate) fn new(socket: OwnedFd, seed: OwnedFd) -> io::Result<Self> {
        let poll = Poller::new()?;
        let signals = sys::signalfd::open(&SIGNALS)?;
        poll.add(&signals, Token::Signals, Interest::Read)?;
        let mut monitor = Self {
            poll,
            signals,
            listener: None,
            state_dir: None,
            peers: Vec::new(),
            peer_interests: Vec::new(),
            phase: Phase::Starting,
            container: None,
            is_init_reaped: false,
            client_interests: Vec::new(),
            is_stdin_watched: false,
            starting: Vec::new(),
            execs: Vec::new(),
            last_id: 0,
            oom: Oom::default(),
            rest_at: None,
            seed: Some(seed),
        };
        monitor.add_peer(socket)?;
        Ok(monitor)
    }

    /// Until there is nothing left to do.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(16);
        loop {
            self.poll.wait(self.timeout(), &mut ready)?;
            for event in &ready {
                self.handle(*event)?;
            }
            self.tick()?;
            self.forget_the_dead();
            self.watch()?;
            if self.is_done() {
                break;
            }
        }
        if let Some(state_dir) = &self.state_dir {
            socket::remove(state_dir);
        }
        Ok(())
    }

    pub(crate) fn new_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    fn add_peer(&mut self, socket: OwnedFd) -> io::Result<()> {
        let peer = Peer::new(self.new_id(), socket)?;
        self.poll.add(peer.fd(), Token::Peer(peer.id), Interest::Read)?;
        self.peer_interests.push((peer.id, Interest::Read));
        self.peers.push(peer);
        Ok(())
    }

    fn handle(&mut self, event: Ready) -> io::Result<()> {
        match event.token {
            Token::Listener => self.accept()?,
            Token::Signals => sys::signalfd::drain(&self.signals),
            Token::Oom => self.memory_ran_out(),
            Token::Init => {
                if let Some(exit) = self
                    .container
                    .as_ref()
                    .filter(|_| !self.is_init_reaped)
                    .and_then(Container::ended)
                {
                    self.init_ended(exit);
                }
            }
            Token::Output(index) => self.output(index as usize),
            Token::Stdin => self.flush_input(),
            Token::Peer(id) => self.peer(id, event),
            Token::Client(id) => self.client(id, event),
            Token::Starting(id) => self.exec_started(id)?,
            Token::Exec(id) => {
                let ended = self
                    .execs
                    .iter()
                    .find(|exec| exec.id == id)
                    .and_then(|exec| Some((exec.pid, exec.ended()?)));
                if let Some((pid, exit)) = ended {
                    self.exec_ended(pid, exit);
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        // EAGAIN, ECONNABORTED: whoever it was has gone; EMFILE passes.
        let Ok(socket) = accept_with(listener, SocketFlags::CLOEXEC) else {
            return Ok(());
        };
        if self.peers.len() < MOST_PEERS && socket::is_trusted(socket.as_fd()) {
            self.add_peer(socket)?;
        }
        Ok(())
    }

    fn peer(&mut self, id: u32, event: Ready) {
        let find = |peers: &mut Vec<Peer>| peers.iter().position(|peer| peer.id == id);
        let Some(index) = find(&mut self.peers) else { return };
        if event.write {
            self.peers[index].flush();
        }
        if event.read {
            self.peers[index].read();
        }
        // A request may add or end peers: looked up anew each time.
        while let Some(index) = find(&mut self.peers) {
            let Some(request) = self.peers[index].request() else {
                break;
            };
            self.request(index, request);
        }
    }

    /// Says something to every daemon.
    pub(crate) fn tell(&mut self, what: &event::What) {
        for peer in &mut self.peers {
            peer.event(what.clone());
        }
    }

    fn output(&mut self, index: usize) {
        let Some(container) = &mut self.container else { return };
        if let Some(ended) = container.read_output(index) {
            self.poll.remove(ended);
        }
        self.rest_at = Some(Instant::now() + REST_AFTER);
    }

    fn flush_input(&mut self) {
        let Some(container) = &mut self.container else { return };
        if let Some(closed) = container.input.flush() {
            self.poll.remove(closed);
            self.is_stdin_watched = false;
        }
    }

    fn client(&mut self, id: u32, event: Ready) {
        let Some(container) = &mut self.container else { return };
        let Some(index) = container.clients.iter().position(|client| client.id == id) else {
            return;
        };
        if event.write {
            container.clients[index].flush();
        }
        let mut buffer: PacketBuffer = [0; _];
        for _ in 0..PACKETS_A_TURN {
            // What one that has gone left behind is bounded by its socket; left unread, epoll would report it for ever.
            if !event.read || !container.input.has_room() && !event.over {
                break;
            }
            match container.clients[index].receive(&mut buffer) {
                Some(Packet::Input(bytes)) => container.input.push(bytes),
                Some(Packet::EndOfInput) => container.input.client_done(),
                // Not a terminal, or gone: the client finds out by itself.
                Some(Packet::Resize { columns, rows }) => drop(container.resize(columns, rows)),
                Some(Packet::Unknown) => {}
                None => break,
            }
        }
        self.flush_input();
    }

    fn memory_ran_out(&mut self) {
        let Some(container) = &mut self.container else { return };
        if let Some(watch) = &mut container.oom {
            watch.drain();
        }
        if self.oom.notified(container.oom_kills(), Instant::now()) {
            self.tell(&event::What::OutOfMemory(OutOfMemory {}));
        }
    }

    fn look_for_oom(&mut self, now: Instant) {
        let Some(container) = &mut self.container else { return };
        let is_well = !self.is_init_reaped && oom::is_well(container.created.pid);
        if self.oom.look(container.oom_kills(), is_well, now) {
            self.tell(&event::What::OutOfMemory(OutOfMemory {}));
        }
    }

    /// The verdict, then the way out.
    fn init_ended(&mut self, exit: Exit) {
        let finished_at = clock::nanoseconds();
        self.is_init_reaped = true;
        let Some(container) = &mut self.container else { return };
        self.poll.remove(container.pidfd());
        let started_at = match self.phase {
            Phase::Running { started_at } => started_at,
            Phase::Created | Phase::Starting => 0,
            Phase::Ending(_) => return,
        };
        let kills = container.oom_kills();
        let kills = Kills {
            all: kills,
            unexplained: self.oom.unexplained(kills),
        };
        let record = exit::verdict(exit, kills, started_at, finished_at);
        self.end(Some(record));
    }

    fn exec_ended(&mut self, pid: i32, exit: Exit) {
        let Some(index) = self.execs.iter().position(|exec| exec.pid == pid) else {
            return;
        };
        let exec = self.execs.swap_remove(index);
        self.poll.remove(&exec.pidfd);
        let told = ExecExited {
            exec_id: u64::from(exec.id),
            exit_code: exec::code(exit),
            timed_out: exec.timed_out,
        };
        self.tell(&event::What::ExecExited(told));
    }

    /// Reaps what the container left to us: without a pid namespace of its own its orphans become our children. Not while
    /// `isolation` waits for children of its own.
    fn reap(&mut self) {
        while self.starting.is_empty()
            && let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG)
        {
            let (pid, exit) = (pid.as_raw_nonzero().get(), exit_of(status));
            if self
                .container
                .as_ref()
                .is_some_and(|container| container.created.pid == pid)
                && !self.is_init_reaped
            {
                self.init_ended(exit);
            } else {
                self.exec_ended(pid, exit);
            }
        }
    }

    /// What the time brings.
    fn tick(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        // Before orphans are reaped, so that ends that are known by pidfd are told first.
        self.reap();
        if passed(self.oom.look_at) {
            self.look_for_oom(now);
        }
        if passed(self.rest_at) {
            self.rest_at = None;
            if let Some(container) = self.container.as_mut().filter(|container| container.has_buffers()) {
                container.rest();
                sys::memory::trim();
            }
        }
        if let Some(container) = &self.container {
            for exec in self.execs.iter_mut().filter(|exec| passed(exec.deadline)) {
                exec.timed_out = true;
                // What could not be found or killed is tried again: its end is what the caller waits for.
                let failed = exec.signal(9, &container.cgroup).is_err();
                exec.deadline = failed.then_some(now + KILL_AGAIN);
            }
        }
        if let Phase::Ending(ending) = &self.phase {
            if ending.leave_by.is_none() {
                self.bury(now);
            } else if ending.retry_at <= now {
                self.sweep(now);
            }
        }
        Ok(())
    }

    fn forget_the_dead(&mut self) {
        for peer in self.peers.extract_if(.., |peer| peer.is_dead) {
            self.poll.remove(peer.fd());
        }
        let Some(container) = &mut self.container else { return };
        for client in container.clients.extract_if(.., |client| client.is_dead) {
            self.poll.remove(client.fd());
            if client.had_input {
                container.input.client_done();
            }
        }
    }

    /// Tells epoll what is waited for now, where that has changed.
    fn watch(&mut self) -> io::Result<()> {
        self.flush_input();
        self.peer_interests
            .retain(|(id, _)| self.peers.iter().any(|peer| peer.id == *id));
        for peer in &self.peers {
            let interest = Interest::new(true, peer.has_backlog());
            if let Some(known) = self
                .peer_interests
                .iter_mut()
                .find(|(id, known)| *id == peer.id && *known != interest)
            {
                self.poll.change(peer.fd(), Token::Peer(peer.id), interest)?;
                known.1 = interest;
            }
        }
        let Some(container) = &self.container else {
            return Ok(());
        };
        self.client_interests
            .retain(|(id, _)| container.clients.iter().any(|client| client.id == *id));
        for client in &container.clients {
            let interest = Interest::new(container.input.has_room(), client.has_backlog());
            match self.client_interests.iter_mut().find(|(id, _)| *id == client.id) {
                Some(known) if known.1 == interest => {}
                Some(known) => {
                    self.poll.change(client.fd(), Token::Client(client.id), interest)?;
                    known.1 = interest;
                }
                None => {
                    self.poll.add(client.fd(), Token::Client(client.id), interest)?;
                    self.client_interests.push((client.id, interest));
                }
            }
        }
        watch_stdin(&self.poll, &container.input, &mut self.is_stdin_watched)
    }

    fn timeout(&self) -> Option<Duration> {
        let ending = match &self.phase {
            Phase::Ending(ending) => ending.wakes_at(),
            _ => None,
        };
        let execs = self.execs.iter().filter_map(|exec| exec.deadline);
        let next = execs.chain(ending).chain(self.rest_at).chain(self.oom.look_at).min()?;
        // Rounded up by epoll_pwait2's nanoseconds: no spinning.
        Some(next.saturating_duration_since(Instant::now()))
    }
}

/// stdin is watched only while something waits to be written: a pipe with room would report for ever.
fn watch_stdin(poll: &Poller, input: &Input, is_watched: &mut bool) -> io::Result<()> {
    let Some(fd) = input.fd() else { return Ok(()) };
    if input.is_waiting() != *is_watched {
        *is_watched = input.is_waiting();
        if *is_watched {
            poll.add(fd, Token::Stdin, Interest::Write)?;
        } else {
            poll.remove(fd);
        }
    }
    Ok(())
}

fn exit_of(status: WaitStatus) -> Exit {
    match status.exit_status() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.terminating_signal().unwrap_or(9)),
    }
}
