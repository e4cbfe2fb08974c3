//! The parent of all monitors: waits for orders on descriptor 3 and forks; it executes nothing.
//!
//! One order is one datagram (`Spawn`) with one descriptor, the socket of the new process. The child of an order becomes
//! a monitor, or pins namespaces and answers. A fork of this small process is cheap, shares its pages, and is born in the
//! cgroup of the monitors. The end of the control socket ends the spawner and nothing else.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use prost::Message as _;
use proto::monitor::{Spawn, reply, spawn::What};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::answer;
use crate::error::Error;
use crate::monitor::Monitor;
use crate::pin;
use crate::placeholder;

/// Orders are small; those with many sysctls are larger.
const LARGEST_ORDER: usize = 64 * 1024;
const FAILED: u8 = 1;

/// Where the daemon leaves the control socket, and where a child finds its own.
pub(crate) const CONTROL: i32 = 3;

/// Where a monitor finds the mount namespace that its container begins from.
pub(crate) const SEED: i32 = 4;

/// Serves orders until the control socket ends.
pub(crate) fn run(control: OwnedFd) -> io::Result<()> {
    protect();
    let seed = isolation::seed().map_err(|error| io::Error::other(error.chain().join(": ")))?;
    let _seed = sys::fds::place(seed, SEED)?;
    // Every fork inherits it: the mount table grows with each pod. Where there are no cgroups yet, a monitor says so.
    drop(cgroup::Host::shared());
    // Whoever waits goes through all monitors: twice for each process that ends.
    sys::signal::wait_for_children(false)?;
    // Before the first order, so that no child inherits what its allocation would leave behind.
    let mut buffer = vec![0; LARGEST_ORDER];
    loop {
        let (count, mut fds) = sys::cmsg::recv(control.as_fd(), &mut buffer)?;
        if count == 0 && is_over(&control)? {
            return Ok(());
        }
        // An order that is none closes its descriptor: that is its answer.
        let (Ok(Spawn { what: Some(what) }), Some(socket)) = (Spawn::decode(&buffer[..count]), fds.pop()) else {
            continue;
        };
        let mut socket = Some(socket);
        if let Err(error) = sys::process::fork(|| socket.take().map_or(FAILED, |socket| child(what, socket)))
            && let Some(socket) = &socket
        {
            let failure = Error::io("fork", "a process for the daemon", error).to_wire();
            // Where this fails the daemon sees its socket close.
            answer::say(socket, reply::Result::Failure(failure)).ok();
        }
    }
}

/// Whether the other end has gone; an order without a byte looks like it.
fn is_over(control: &OwnedFd) -> io::Result<bool> {
    let mut look = [PollFd::new(control, PollFlags::empty())];
    rustix::event::poll(&mut look, Some(&Timespec::default()))?;
    Ok(look[0].revents().contains(PollFlags::HUP))
}

fn child(what: What, socket: OwnedFd) -> u8 {
    // The spawner's own descriptors go but for the seed: the control socket's end must not depend on monitors.
    let Ok(socket) = sys::fds::keep_only(socket, CONTROL, SEED) else {
        return FAILED;
    };
    if sys::signal::wait_for_children(true).is_err() {
        return FAILED;
    }
    let result = match what {
        What::Monitor(_) => become_monitor(socket),
        What::Pin(order) => pin::run(&order, socket),
        What::Placeholder(_) => placeholder::run(socket),
    };
    u8::from(result.is_err())
}

fn become_monitor(socket: OwnedFd) -> io::Result<()> {
    // A session of its own: no terminal's hangup and no group's signal reaches it.
    rustix::process::setsid()?;
    sys::prctl::set_child_subreaper(true)?;
    Monitor::new(socket, sys::fds::inherited(SEED)?)?.run()
}

/// As safe from the OOM killer as the host allows. A score below the present one needs CAP_SYS_RESOURCE; where that is
/// missing, the score that the daemon's service gave stays. `isolation` sets a container's own before execve.
fn protect() {
    std::fs::write("/proc/self/oom_score_adj", "-999").ok();
}
