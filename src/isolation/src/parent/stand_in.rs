//! A process that does nothing, so that a scope of systemd has one until init is born in it.

use rustix::process::{Signal, set_parent_process_death_signal};
use sys::process::{self, pidfd_open, pidfd_signal};

use crate::Error;

/// Killed and reaped when dropped; it does not outlive this process either.
#[derive(Debug)]
pub(super) struct StandIn {
    pid: i32,
}

impl StandIn {
    pub(super) fn start() -> Result<Self, Error> {
        let pid = process::fork(|| {
            // The creator may have died before this call: then the scope ends with the unit's other processes, of which
            // there are none, by the timeout below.
            if set_parent_process_death_signal(Some(Signal::KILL)).is_ok() {
                std::thread::sleep(std::time::Duration::from_secs(60));
            }
            0
        });
        let pid = pid.map_err(Error::sys("fork", "the stand-in of a scope"))?;
        Ok(Self { pid })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // It is our child and not reaped: the pid is its own until then.
        drop(pidfd_open(self.pid).and_then(|fd| pidfd_signal(std::os::fd::AsFd::as_fd(&fd), libc::SIGKILL)));
        drop(process::wait(self.pid));
    }
}
