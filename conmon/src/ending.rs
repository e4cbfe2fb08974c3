//! From the end of the first process to the end of the monitor.
//!
//! 1. The exit record is written.
//! 2. What is left in the cgroup is killed, again and again.
//! 3. Streams are read to their end, for at most [`DRAIN`] from the death of init.
//! 4. The cgroup is removed.
//! 5. Daemons are told, the discarder is answered.
//! 6. The monitor ends when they have it.
//!
//! A process that cannot die (D state) holds up 4 and 6 alone: after [`DRAIN`] the end is told without it, and the monitor
//! stays to remove the cgroup when the process is gone at last.

use std::time::{Duration, Instant};

use spec::ExitRecord;

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
    pub(crate) discarder: Option<(u32, u64)>,
    pub(crate) drain_until: Instant,
    pub(crate) retry_at: Instant,
    pause: Duration,
    pub(crate) is_cgroup_gone: bool,
    /// Since when everybody has been told, and until when they may take to hear it.
    pub(crate) leave_by: Option<Instant>,
}

impl Ending {
    pub(crate) fn new(record: Option<ExitRecord>, discarder: Option<(u32, u64)>, now: Instant) -> Self {
        Self {
            is_written: record.is_none(),
            record,
            discarder,
            drain_until: now + DRAIN,
            retry_at: now,
            pause: FIRST_PAUSE,
            is_cgroup_gone: false,
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
