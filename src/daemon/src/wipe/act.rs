//! Does one step of a wipe. Each is safe to do twice: what is gone already is done.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use config::Config;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Step;
use crate::parts;

/// A monitor whose container is dead ends by itself; this is how long it is given.
const GRACE: Duration = Duration::from_secs(2);

/// Does `step`.
pub(crate) fn act(step: &Step, config: &Config) -> anyhow::Result<()> {
    let done = match step {
        Step::EndMonitor { pid, .. } => end(*pid),
        Step::RemoveCgroup { path } => remove_cgroup(path),
        Step::RemoveEmptyCgroups { paths, .. } => paths.iter().try_for_each(|path| match fs::remove_dir(path) {
            // EBUSY: processes or children of another daemon with the same cgroup_root.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
            done => gone_is_done(done),
        }),
        Step::ReleaseNetworks { .. } => release(config),
        // Lazily: a process of somebody else's that still stands in it does not hold us up.
        Step::Unmount { path } => {
            gone_is_done(unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(io::Error::from))
        }
        Step::RemoveFile { path } => gone_is_done(fs::remove_file(path)),
        Step::RemoveTree { path } => remove_tree(path),
    };
    done.with_context(|| step.to_string())
}

fn gone_is_done(done: io::Result<()>) -> anyhow::Result<()> {
    match done {
        // EINVAL of umount2: nothing is mounted there.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(()),
        done => Ok(done?),
    }
}

/// No attachment is valid any more, so all are taken down.
fn release(config: &Config) -> anyhow::Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio.block_on(async { parts::networks(config).gc(&[]).await })?)
}

/// Waits for the process to end by itself, then kills it.
fn end(pid: i32) -> anyhow::Result<()> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if wait(&process, GRACE)? {
        return Ok(());
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    anyhow::ensure!(
        wait(&process, GRACE)?,
        "it does not end: it waits for the kernel (state D)"
    );
    Ok(())
}

/// Whether the process ends within `time`.
fn wait(process: &impl std::os::fd::AsFd, time: Duration) -> anyhow::Result<bool> {
    let limit = Timespec::try_from(time)?;
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&limit))? > 0)
}

fn remove_cgroup(path: &str) -> anyhow::Result<()> {
    let cgroup = cgroup::Host::detect()?.open(path)?;
    cgroup.kill()?;
    cgroup.remove()?;
    Ok(())
}

fn remove_tree(path: &Path) -> anyhow::Result<()> {
    // Goes down by directory descriptors and follows no link (std, CVE-2022-21658).
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    #[test]
    fn every_step_may_be_done_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (file, tree, kept) = (dir.path().join("f"), dir.path().join("t"), dir.path().join("kept"));
        fs::write(&file, "").unwrap();
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("x"), "").unwrap();
        symlink(&kept, tree.join("a/link")).unwrap();
        let config = Config::default();
        for _ in 0..2 {
            act(&Step::RemoveFile { path: file.clone() }, &config).unwrap();
            act(&Step::RemoveTree { path: tree.clone() }, &config).unwrap();
            act(&Step::Unmount { path: file.clone() }, &config).unwrap();
        }
        assert!(!file.exists() && !tree.exists() && kept.join("x").exists());
    }

    #[test]
    fn a_process_that_stays_is_killed() {
        let mut child = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        end(pid).unwrap();
        assert!(!child.wait().unwrap().success());
        end(pid).unwrap();
    }
}
