//! Second processes: those that are being made, those that run, their deadlines.
//!
//! When a deadline passes (or the daemon asks for SIGKILL) everything that came of the process is killed: its session,
//! its process group and its descendants, again and again until a pass finds nobody new. A process with a deadline keeps
//! its orphans (`ExecRequest::keeps_orphans`), so that a double fork with a session of its own is a descendant too. What
//! one without a deadline leaves behind that way stays, as it would with any other program of the container.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use cgroup::Cgroup;
use isolation::PendingExec;
use sys::process::Exit;

use crate::error::Error;

const SIGKILL: i32 = 9;
const PASSES: u32 = 20;

/// A process on its way to execve.
pub(crate) struct Starting {
    pub(crate) id: u32,
    pub(crate) pending: PendingExec,
    /// Whom to answer.
    pub(crate) peer: u32,
    pub(crate) request: u64,
    pub(crate) deadline: Option<Instant>,
    /// Our ends of its pipes, which go to the daemon; none with a terminal.
    pub(crate) pipes: Vec<OwnedFd>,
    pub(crate) size: Option<(u16, u16)>,
}

/// A running one.
pub(crate) struct Running {
    pub(crate) id: u32,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) deadline: Option<Instant>,
    pub(crate) timed_out: bool,
}

impl Running {
    /// Sends a signal; SIGKILL goes to all that came of it, and to itself also where those cannot be found.
    pub(crate) fn signal(&self, signal: i32, cgroup: &Cgroup) -> Result<(), Error> {
        self.send(signal, || Ok(cgroup.procs()?))
    }

    fn send(&self, signal: i32, members: impl Fn() -> Result<Vec<i32>, Error>) -> Result<(), Error> {
        let family = if signal == SIGKILL {
            kill_family(self.pid, members)
        } else {
            Ok(())
        };
        match sys::process::pidfd_signal(self.pidfd.as_fd(), signal) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => family,
            other => other
                .map_err(|error| Error::io("signal", format!("exec'd process {}", self.pid), error))
                .and(family),
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> Option<Exit> {
        match sys::process::try_wait_pidfd(self.pidfd.as_fd()) {
            Ok(exit) => exit,
            // Nobody else waits for it: the code is lost, the end is not.
            Err(_) => Some(Exit::Code(255)),
        }
    }
}

/// 0..=255 as a shell tells it.
pub(crate) fn code(exit: Exit) -> i32 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
    }
}

fn kill_family(root: i32, members: impl Fn() -> Result<Vec<i32>, Error>) -> Result<(), Error> {
    let mut family = BTreeSet::from([root]);
    for _ in 0..PASSES {
        let before = family.len();
        // Parents may come after their children in the list: the inner passes settle that.
        let stats: Vec<Stat> = members()?.into_iter().filter_map(Stat::read).collect();
        loop {
            let known = family.len();
            let related = |stat: &&Stat| family.contains(&stat.parent) || stat.session == root || stat.group == root;
            let fresh: Vec<i32> = stats.iter().filter(related).map(|stat| stat.pid).collect();
            family.extend(fresh);
            if family.len() == known {
                break;
            }
        }
        for pid in family.iter().filter(|pid| **pid != root) {
            if let Some(stat) = stats.iter().find(|stat| stat.pid == *pid) {
                stat.kill();
            }
        }
        if family.len() == before {
            break;
        }
    }
    Ok(())
}

/// What `/proc/PID/stat` says about kinship.
struct Stat {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    /// Clock ticks since boot.
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &text)
    }

    /// Kills this process, and no other that got its number since.
    fn kill(&self) {
        // ESRCH: it has ended.
        let Ok(pidfd) = sys::process::pidfd_open(self.pid) else {
            return;
        };
        if Self::read(self.pid).is_some_and(|now| now.started == self.started) {
            sys::process::pidfd_signal(pidfd.as_fd(), SIGKILL).ok();
        }
    }

    /// The name in brackets may hold anything, brackets too.
    fn parse(pid: i32, text: &str) -> Option<Self> {
        // From the third on (proc_pid_stat(5)): state, ppid, pgrp, session, ... starttime is the 22nd.
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index - 3)?.parse().ok();
        Some(Self {
            pid,
            parent: number(4)?,
            group: number(5)?,
            session: number(6)?,
            started: fields.get(22 - 3)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_do_not_confuse() {
        let stat = Stat::parse(7, "7 (a) R 9 9 9 (b) S 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 6789 0\n").unwrap();
        assert_eq!((stat.parent, stat.group, stat.session, stat.started), (3, 4, 5, 6789));
        assert!(Stat::parse(7, "7 (x) R").is_none());
    }

    #[test]
    fn a_process_whose_family_cannot_be_found_is_killed_all_the_same() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let running = Running {
            id: 1,
            pid,
            pidfd: sys::process::pidfd_open(pid).unwrap(),
            deadline: None,
            timed_out: false,
        };
        let told = running.send(SIGKILL, || Err(Error::too_early_or_late("no list")));
        let end = std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap());
        assert_eq!(end, Some(SIGKILL));
        assert!(told.is_err(), "nobody would try again");
    }

    #[test]
    fn codes() {
        assert_eq!((code(Exit::Code(3)), code(Exit::Signal(9))), (3, 137));
    }
}
