//! Kill, freeze, thaw.
//!
//! v2 kills by `cgroup.kill` (Linux 5.14), which a fork bomb cannot outrun. v1 signals every process of the list
//! until a pass finds nobody new, then thaws: a frozen process dies only when it runs again. Freezing first is no help
//! on v1: a process in uninterruptible sleep never freezes, and an error between the two leaves the rest frozen.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::fs::Dir;
use crate::{Cgroup, Error, Version, file};

const PASSES: u32 = 1000;
const FREEZE_LIMIT: Duration = Duration::from_secs(2);

impl Cgroup {
    /// Sends SIGKILL to every process in the cgroup and below, and thaws it. Does not wait for the processes to be
    /// gone: [`Cgroup::procs`] tells, [`Cgroup::remove`] waits a little.
    ///
    /// # Errors
    /// When the list cannot be read or a process may not be signalled.
    pub fn kill(&self) -> Result<(), Error> {
        let by_kernel = self
            .v2()
            .is_some_and(|dir| file::write(&dir.path.join("cgroup.kill"), "1").is_ok());
        if !(by_kernel && self.version() == Version::V2) {
            self.kill_each()?;
        }
        self.thaw()
    }

    fn kill_each(&self) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        for _ in 0..PASSES {
            let fresh: Vec<i32> = self.procs()?.into_iter().filter(|pid| !seen.contains(pid)).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            for pid in fresh {
                seen.insert(pid);
                let Some(target) = Pid::from_raw(pid) else { continue };
                match kill_process(target, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(errno) => return Err(Error::at("kill a process of", Path::new(self.path()))(errno.into())),
                }
            }
        }
        Err(Error::Busy {
            path: self.path().to_owned(),
            attempts: PASSES,
        })
    }

    /// Stops every process of the cgroup; returns when they stand still.
    ///
    /// # Errors
    /// [`Error::NotFrozen`] where they do not within two seconds: then they run again.
    pub fn freeze(&self) -> Result<(), Error> {
        let dir = self.freezer()?;
        let deadline = Instant::now() + FREEZE_LIMIT;
        let result = wait_frozen(dir, deadline).and_then(|frozen| {
            let millis = u64::try_from(FREEZE_LIMIT.as_millis()).unwrap_or(u64::MAX);
            if frozen {
                Ok(())
            } else {
                Err(Error::NotFrozen {
                    path: self.path().to_owned(),
                    millis,
                })
            }
        });
        if result.is_err() {
            // R28: no error path may leave it frozen.
            self.thaw()?;
        }
        result
    }

    /// Lets the processes run on; nothing where there is no freezer or no cgroup.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn thaw(&self) -> Result<(), Error> {
        let Ok(dir) = self.freezer() else { return Ok(()) };
        let (name, value) = match dir.version {
            Version::V1 => ("freezer.state", "THAWED"),
            Version::V2 => ("cgroup.freeze", "0"),
        };
        match file::write(&dir.path.join(name), value) {
            Err(error) if error.is_missing_file() => Ok(()),
            Err(Error::Write { source, .. })
                if source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn freezer(&self) -> Result<&Dir, Error> {
        self.dir("freezer").or_else(|| self.v2()).ok_or(Error::Missing {
            what: "freeze",
            controller: "freezer",
        })
    }
}

fn wait_frozen(dir: &Dir, deadline: Instant) -> Result<bool, Error> {
    let mut pause = Duration::from_micros(100);
    loop {
        let frozen = match dir.version {
            Version::V1 => {
                // Written again each time: a process forked while the state was FREEZING may have slipped through
                // (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
                file::write(&dir.path.join("freezer.state"), "FROZEN")?;
                file::read(&dir.path.join("freezer.state"))?.trim() == "FROZEN"
            }
            Version::V2 => {
                file::write(&dir.path.join("cgroup.freeze"), "1")?;
                file::field(&file::read(&dir.path.join("cgroup.events"))?, "frozen") == Some(1)
            }
        };
        if frozen || Instant::now() >= deadline {
            return Ok(frozen);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
