//! Processes: fork, clone3, pidfds, waiting, execve, leaving.
//!
//! `fork` and `clone3` run a closure in the child and never return there, so that no `Drop`, no test harness and
//! no caller's frame runs twice. A panic in the closure ends the child with [`PANICKED`].
//! `fork` is libc's (its malloc handlers run, so a threaded test program may use it); `clone3` is the raw system
//! call and belongs into a process with one thread.

use std::ffi::{CStr, CString, NulError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus};

use crate::call::{check, check_long};

/// Exit code of a child whose closure panicked.
pub const PANICKED: u8 = 70;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By exit_group(2), with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Ends this process at once: no destructors, no atexit handlers, no flushing.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code.into()) }
}

fn run_child(child: impl FnOnce() -> u8) -> ! {
    exit_now(catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED))
}

/// Forks; the child runs `child`, then ends with its value. Returns the child's pid.
///
/// # Errors
/// What fork(2) says.
pub fn fork(child: impl FnOnce() -> u8) -> io::Result<i32> {
    // SAFETY: the child gets a copy of this thread alone and stays inside `run_child`; callers keep it to system
    // calls and memory allocation, which libc's fork handlers make safe even where the parent has threads.
    match check(unsafe { libc::fork() })? {
        0 => run_child(child),
        pid => Ok(pid),
    }
}

/// What [`clone3`] is asked for.
#[derive(Debug, Default)]
pub struct CloneArgs<'a> {
    /// `CLONE_NEW*` flags and [`CLONE_PARENT`].
    pub flags: u64,
    /// The cgroup v2 directory to be born in (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// The child becomes a sibling: its parent is the caller's parent.
pub const CLONE_PARENT: u64 = libc::CLONE_PARENT as u64;

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone3(2) without shared memory; the child runs `child`. Returns its pid and pidfd (close-on-exec).
///
/// # Errors
/// What clone3(2) says.
pub fn clone3(args: &CloneArgs<'_>, child: impl FnOnce() -> u8) -> io::Result<(i32, OwnedFd)> {
    use std::os::fd::AsRawFd;
    let mut pidfd: libc::c_int = -1;
    let mut flags = args.flags | libc::CLONE_PIDFD as u64;
    let mut cgroup = 0;
    if let Some(fd) = args.cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = fd.as_raw_fd() as u64;
    }
    // clone3 answers EINVAL to CLONE_PARENT with any exit signal: the child takes over the caller's own.
    let exit_signal = if flags & CLONE_PARENT == 0 {
        libc::SIGCHLD as u64
    } else {
        0
    };
    let raw = libc::clone_args {
        flags,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: without CLONE_VM and with no stack given this is a fork: the child has its own copy of memory and
    // goes on here. `raw` has the kernel's layout and its size goes along; `pidfd` outlives the call.
    let pid = check_long(unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        run_child(child);
    }
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor here; nobody else owns it.
    Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

fn pid(pid: i32) -> io::Result<Pid> {
    // rustix asserts that it is not negative, so that is checked first.
    if pid < 1 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// A pidfd (close-on-exec) of `id`: right only while `id` cannot be reused, as for a child not yet waited for.
///
/// # Errors
/// What pidfd_open(2) says; ESRCH for a process that is gone.
pub fn pidfd_open(id: i32) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid(id)?, PidfdFlags::empty())?)
}

/// Sends `signal` to the process behind `pidfd`; 0 asks whether it is there.
///
/// # Errors
/// ESRCH for one that has been waited for; EINVAL for a signal that does not exist.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is borrowed for the call; a null siginfo is allowed and means that of kill(2).
    check_long(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) }).map(drop)
}

fn exit_of(status: &WaitIdStatus) -> Exit {
    match status.exit_status() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.terminating_signal().unwrap_or(libc::SIGKILL)),
    }
}

fn waitid(id: &WaitId<'_>, options: WaitIdOptions) -> io::Result<Option<Exit>> {
    loop {
        match rustix::process::waitid(id.clone(), options) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?.as_ref().map(exit_of)),
        }
    }
}

/// Waits for a child by pid and reaps it.
///
/// # Errors
/// ECHILD where `id` is no child of this process.
pub fn wait(id: i32) -> io::Result<Exit> {
    waitid(&WaitId::Pid(pid(id)?), WaitIdOptions::EXITED)?.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))
}

/// Waits for a child by pidfd and reaps it.
///
/// # Errors
/// ECHILD where it is no child of this process.
pub fn wait_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Exit> {
    waitid(&WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?
        .ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))
}

/// Reaps a child by pidfd where it has ended; `None` while it runs.
///
/// # Errors
/// ECHILD where it is no child of this process.
pub fn try_wait_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    waitid(
        &WaitId::PidFd(pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    )
}

/// Reaps any child that has ended: for a process whose one task is to reap (pid 1 of a namespace).
/// `Ok(true)`: one was reaped; `Ok(false)`: none has ended, or there are none.
///
/// # Errors
/// What waitid(2) says, except ECHILD.
pub fn reap_any() -> io::Result<bool> {
    match rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(status) => Ok(status.is_some()),
        Err(rustix::io::Errno::CHILD) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A NULL-terminated array of C strings, as execve wants it, made ahead of time.
#[derive(Debug)]
pub struct CStrings {
    // Owns what `pointers` points at; a CString's bytes are on the heap and do not move with it.
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStrings {
    /// Copies `strings`.
    ///
    /// # Errors
    /// Where one of them holds a NUL byte.
    pub fn new<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Result<Self, NulError> {
        let strings = strings
            .into_iter()
            .map(|s| CString::new(s.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Self { strings, pointers })
    }

    /// The strings.
    #[must_use]
    pub fn as_slice(&self) -> &[CString] {
        &self.strings
    }
}

/// execve(2); returns only where it failed. Does not allocate.
#[must_use]
pub fn execve(path: &CStr, args: &CStrings, env: &CStrings) -> io::Error {
    // SAFETY: the path is NUL-terminated, both arrays end in NULL and point at C strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// What close_range(2) says (Linux 5.11).
pub fn cloexec_from(first: u32) -> io::Result<()> {
    close_range(first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor from `first` on, whoever owns it: for a process that owns nothing above it any more
/// and never returns (a reaper, a test's child).
///
/// # Errors
/// What close_range(2) says.
pub fn close_from(first: u32) -> io::Result<()> {
    close_range(first, libc::c_uint::MAX, 0)
}

/// Closes every descriptor above 2 that is not in `keep`, whoever owns it: for a forked child that goes on with
/// those alone and never returns to the frames that own the others.
///
/// # Errors
/// What close_range(2) says (Linux 5.9).
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, libc::c_uint::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: integers only. Closing descriptors that a Rust value owns is the caller's documented contract.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// This process' id, as its own pid namespace counts.
#[must_use]
pub fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_gives_the_code_back() {
        let child = fork(|| 7).unwrap();
        assert_eq!(wait(child).unwrap(), Exit::Code(7));
    }

    #[test]
    fn a_panic_stays_in_the_child() {
        // Not `panic!`: its hook takes locks that another thread may hold in this copy of the process.
        let child = fork(|| std::panic::resume_unwind(Box::new(()))).unwrap();
        assert_eq!(wait(child).unwrap(), Exit::Code(PANICKED.into()));
    }

    #[test]
    fn clone_parent_makes_a_sibling() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let helper = fork(|| {
            let args = CloneArgs {
                flags: CLONE_PARENT,
                cgroup: None,
            };
            let Ok((pid, _pidfd)) = clone3(&args, || 9) else {
                return 1;
            };
            u8::from(rustix::io::write(&write, &pid.to_le_bytes()).is_err())
        })
        .unwrap();
        let mut bytes = [0; 4];
        assert_eq!(rustix::io::read(&read, &mut bytes).unwrap(), 4);
        assert_eq!(wait(helper).unwrap(), Exit::Code(0));
        let pidfd = pidfd_open(i32::from_le_bytes(bytes)).unwrap();
        assert_eq!(wait_pidfd(pidfd.as_fd()).unwrap(), Exit::Code(9));
    }

    #[test]
    fn a_signal_ends_it() {
        let child = fork(|| {
            loop {
                std::thread::sleep(std::time::Duration::from_secs(10));
            }
        })
        .unwrap();
        let pidfd = pidfd_open(child).unwrap();
        assert_eq!(try_wait_pidfd(pidfd.as_fd()).unwrap(), None);
        pidfd_signal(pidfd.as_fd(), libc::SIGTERM).unwrap();
        assert_eq!(wait_pidfd(pidfd.as_fd()).unwrap(), Exit::Signal(libc::SIGTERM));
        assert!(pidfd_signal(pidfd.as_fd(), 0).is_err());
    }

    #[test]
    fn execve_says_why_not() {
        let args = CStrings::new(["x"]).unwrap();
        let env = CStrings::new::<&str>([]).unwrap();
        assert_eq!(execve(c"/nonexistent/x", &args, &env).kind(), io::ErrorKind::NotFound);
        assert!(CStrings::new(["a\0b"]).is_err());
    }

    #[test]
    fn only_what_is_kept_stays_open() {
        let child = fork(|| {
            let open = || {
                let fds = std::fs::read_dir("/proc/self/fd").ok()?;
                let mut numbers: Vec<u32> = fds.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
                numbers.sort_unstable();
                Some(numbers)
            };
            let Ok((read, write)) = rustix::pipe::pipe() else {
                return 1;
            };
            let Ok(_third) = rustix::io::dup(&read).map(std::mem::ManuallyDrop::new) else {
                return 2;
            };
            if close_all_but(&[write.as_fd(), read.as_fd()]).is_err() {
                return 3;
            }
            // The listing has one descriptor of its own.
            u8::from(open().is_none_or(|numbers| numbers.iter().filter(|n| **n > 2).count() != 3))
        })
        .unwrap();
        assert_eq!(wait(child).unwrap(), Exit::Code(0));
    }

    #[test]
    fn a_pid_below_one_is_refused() {
        assert!(pidfd_open(0).is_err());
        assert!(pidfd_open(-1).is_err());
    }
}
