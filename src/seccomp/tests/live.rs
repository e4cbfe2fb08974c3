//! The default profile, loaded for real in forked children: the kernel takes it and it does what the interpreter says.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "all of this file is a test"
)]

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use sys::process::{Exit, fork, wait};

/// Runs `check` in a child under the default profile; it says whether it saw what it expected.
fn under_default(check: fn() -> bool) {
    let program = seccomp::compile(&seccomp::default_profile::<&str>(&[])).unwrap();
    let child = fork(|| {
        if sys::prctl::set_no_new_privs().is_err() || sys::seccomp::load(&program.filter, program.flags).is_err() {
            return 2;
        }
        u8::from(!check())
    });
    assert_eq!(wait(child.unwrap()).unwrap(), Exit::Code(0));
}

#[test]
fn sockets_of_the_dangerous_families_are_refused() {
    under_default(|| {
        let open = |family| socket(AddressFamily::from_raw(family), SocketType::SEQPACKET, None).map(drop);
        open(38) == Err(Errno::PERM) && open(40) == Err(Errno::PERM) && open(1).is_ok()
    });
}

#[test]
fn namespaces_are_refused_and_files_and_forks_work() {
    under_default(|| {
        let unshared = sys::ns::unshare(0x1000_0000).unwrap_err();
        let forked = fork(|| 7).and_then(wait);
        let read = std::fs::read("/proc/self/status").is_ok();
        unshared.raw_os_error() == Some(1) && forked.is_ok_and(|exit| exit == Exit::Code(7)) && read
    });
}

#[test]
fn a_program_starts_and_threads_run() {
    under_default(|| {
        let run = std::process::Command::new("/bin/sh")
            .args(["-c", "ls / >/dev/null && (cat /etc/passwd | grep -q root)"])
            .status();
        let thread = std::thread::spawn(|| 3).join();
        run.is_ok_and(|status| status.success()) && thread.is_ok_and(|value| value == 3)
    });
}
