//! From the end of the first process to the end of the monitor.
//!
//! 1. The exit record is written.
//! 2. What is left in the cgroup is killed, again and again.
//! 3. Streams are read to their end, for at most [`DRAIN`] from the death of init.
//! 4. The cgroup is removed.
//! 5. Poststop hooks run, if there are any; daemons are told, the discarder is answered.
//! 6. The monitor ends when they have it.
//!
//! A process that cannot die (D state) holds up 4 and 6 alone: after [`DRAIN`] the end is told without it, and the monitor
//! stays to remove the cgroup when the process is gone at last.

use std::time::{Duration, Instant};

use proto::monitor::{Exited, event};
use spec::ExitRecord;

use crate::exit;
use crate::monitor::{Monitor, Phase};
use crate::rpc::Peer;

/// How long output is waited for, and how long a cgroup may hold up the news.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);

/// How long a peer may take to read the news.
const FAREWELL: Duration = Duration::from_secs(5);

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
const PAUSE_WHEN_TOLD: Duration = Duration::from_secs(2);

/// How far it is.
#[derive(Debug)]
pub(crate) struct Ending {
    /// How the container ended; none when it was discarded.
    pub(crate) record: Option<ExitRecord>,
    /// The record is on disk, or not wanted.
    pub(crate) is_written: bool,
    /// Who asked for the discard: peer and request.
    discarders: Vec<(u32, u64)>,
    pub(crate) drain_until: Instant,
    pub(crate) retry_at: Instant,
    pause: Duration,
    pub(crate) is_cgroup_gone: bool,
    /// What went wrong after the end: poststop hooks.
    warnings: Vec<String>,
    /// Since when everybody has been told, and until when they may take to hear it.
    pub(crate) leave_by: Option<Instant>,
}

impl Ending {
    pub(crate) fn new(record: Option<ExitRecord>, now: Instant) -> Self {
        Self {
            is_written: record.is_none(),
            record,
            discarders: Vec::new(),
            drain_until: now + DRAIN,
            retry_at: now,
            pause: FIRST_PAUSE,
            is_cgroup_gone: false,
            warnings: Vec::new(),
            leave_by: None,
        }
    }

    /// Sets the time of the next attempt.
    pub(crate) fn wait_longer(&mut self, now: Instant) {
        self.retry_at = now + self.pause;
        let longest = if self.leave_by.is_some() {
            PAUSE_WHEN_TOLD
        } else {
            LONGEST_PAUSE
        };
        self.pause = (self.pause * 2).min(longest);
    }

    /// How the container ended, for the daemon.
    pub(crate) fn exited(&self) -> Option<Exited> {
        self.record.as_ref().map(|record| exit::to_wire(record, &self.warnings))
    }

    pub(crate) fn told(&mut self, now: Instant) {
        self.leave_by = Some(now + FAREWELL);
    }

    /// When there is something to do although nothing has happened.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        let retry = (!self.is_cgroup_gone || !self.is_written).then_some(self.retry_at);
        let limit = self.leave_by.or(Some(self.drain_until));
        // Past its limit it waits for the cgroup alone.
        let limit = limit.filter(|limit| *limit > Instant::now() || retry.is_none());
        retry.into_iter().chain(limit).min()
    }
}

impl Monitor {
    /// Begins the way out.
    pub(crate) fn end(&mut self, record: Option<ExitRecord>) {
        self.phase = Phase::Ending(Ending::new(record, Instant::now()));
    }

    /// Begins it for `discarder` (peer and request), or has it wait for the end that has begun already. False: all is over.
    pub(crate) fn discard(&mut self, discarder: (u32, u64)) -> bool {
        if !matches!(self.phase, Phase::Ending(_)) {
            self.end(None);
        }
        let Phase::Ending(ending) = &mut self.phase else {
            return false;
        };
        ending.discarders.push(discarder);
        ending.leave_by.is_none()
    }

    /// Records, kills, drains; tells when all is done or too much time has passed.
    pub(crate) fn bury(&mut self, now: Instant) {
        self.sweep(now);
        let Phase::Ending(ending) = &self.phase else { return };
        let (late, is_cgroup_gone) = (now >= ending.drain_until, ending.is_cgroup_gone);
        let silent = self
            .container
            .as_ref()
            .is_none_or(|container| container.outputs.iter().all(Option::is_none));
        let over = silent && self.execs.is_empty() && self.starting.is_empty();
        let reaped = self.is_init_reaped || self.container.is_none();
        if !(late || over && is_cgroup_gone && reaped) {
            return;
        }
        // Before the news: whoever hears it removes the bundle, and the hooks with it. Their failure changes nothing.
        let container = self.container.as_ref().filter(|_| is_cgroup_gone);
        let failed = container.and_then(|container| container.created.poststop().err());
        let warnings: Vec<String> = failed.iter().map(|error| error.chain().join(": ")).collect();
        if let Some(container) = &mut self.container {
            for fd in (0..2).filter_map(|index| container.abandon_output(index)) {
                self.poll.remove(fd);
            }
        }
        let Phase::Ending(ending) = &mut self.phase else { return };
        ending.told(now);
        ending.warnings = warnings;
        let exited = ending.exited();
        let discarders = std::mem::take(&mut ending.discarders);
        if let Some(listener) = self.listener.take() {
            self.poll.remove(listener);
        }
        if let Some(exited) = exited {
            self.tell(&event::What::Exited(exited));
        }
        for (peer, request) in discarders {
            self.done(peer, request);
        }
    }

    /// One attempt at everything that may fail for a while.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let Phase::Ending(ending) = &mut self.phase else { return };
        if ending.retry_at > now {
            return;
        }
        if let (Some(record), Some(state_dir), false) = (&ending.record, &self.state_dir, ending.is_written) {
            // A full /run: tried again, and told to the daemon in any case.
            ending.is_written = exit::write(state_dir, record).is_ok();
        }
        if let Some(container) = &self.container {
            if !ending.is_cgroup_gone {
                // Both are tried again until they succeed; there is nobody to tell of the attempts.
                container.cgroup.kill().ok();
                ending.is_cgroup_gone = container.cgroup.try_remove().unwrap_or(false);
            }
        } else {
            ending.is_cgroup_gone = true;
        }
        ending.wait_longer(now);
    }

    /// Whether the process may end.
    pub(crate) fn is_done(&mut self) -> bool {
        match &self.phase {
            Phase::Starting => self.peers.is_empty(),
            Phase::Created | Phase::Running { .. } => false,
            Phase::Ending(ending) => {
                let Some(leave_by) = ending.leave_by else { return false };
                let clients = self.container.iter().flat_map(|container| &container.clients);
                let waits =
                    self.peers.iter().any(Peer::has_backlog) || clients.into_iter().any(|client| client.has_backlog());
                if waits && Instant::now() < leave_by {
                    return false;
                }
                // Whoever waits for the end of the connection shall not wait for a process that cannot die.
                self.peers.clear();
                if let Some(container) = &mut self.container {
                    container.clients.clear();
                }
                // A record that cannot be written (a full /run) is tried as long as anybody could still be listening.
                ending.is_cgroup_gone && (ending.is_written || Instant::now() >= leave_by)
            }
        }
    }
}
