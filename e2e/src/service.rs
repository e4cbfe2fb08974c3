//! Processes in a node's namespaces: started through `nsenter`, known and ended by pid.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A process in a node's namespaces, killed by pid when dropped.
#[derive(Debug)]
pub struct Service {
    /// `nsenter`, whose only child is the process.
    outer: Child,
    pid: u32,
}

impl Service {
    /// Starts `command` (from `Node::enter`), output to `log`.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut outer = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start nsenter")?;
        let id = outer.id();
        let pid = wait::blocking("nsenter started its program", Duration::from_secs(10), || {
            if let Some(status) = outer.try_wait()? {
                bail!("the program ended at once: {status}");
            }
            Ok(child_of(id).filter(|child| !is_named(*child, "nsenter")))
        })?;
        Ok(Self { outer, pid })
    }

    /// Its pid, as seen from outside.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<String>> {
        Ok(self
            .outer
            .try_wait()?
            .map(|status| match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (_, signal) => format!("signal {signal:?}"),
            }))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_pid(self.pid, signal)
    }

    /// Kills it and waits.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if self.outer.try_wait()?.is_none() {
            // It may end between the question and the signal.
            self.signal(Signal::KILL).ok();
            self.outer.wait()?;
        }
        Ok(())
    }

    /// Asks it to end and waits; answers how it ended.
    ///
    /// # Errors
    /// Where it has not ended after `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Result<String> {
        self.signal(Signal::TERM)?;
        // Not blocking: this test's own connections hear of it too, and are closed.
        wait::until("the server ends after SIGTERM", limit, async || self.ended()).await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill().ok();
    }
}

/// Sends a signal to a pid.
///
/// # Errors
/// Where it is gone.
pub fn signal_pid(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid)?;
    kill_process(Pid::from_raw(raw).context("pid 0")?, signal).with_context(|| format!("signal pid {pid}"))
}

pub(crate) fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// The parent of a process.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))?
        .trim()
        .parse()
        .ok()
}

fn is_named(pid: u32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
}
