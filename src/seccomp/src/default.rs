//! Our RuntimeDefault: what a container may call when the pod asks for the default profile.
//!
//! An allow-list by theme; everything else is EPERM, what is newer than the list ENOSYS. Left out on purpose, whatever
//! the capabilities: the kernel keyring (not namespaced: `add_key`, `keyctl`, `request_key`), `userfaultfd`, io_uring (its
//! work passes by this filter), kexec, `nfsservctl` and the like, swap. Everything that makes or enters namespaces or
//! mounts, loads BPF or modules, sets clocks or opens by handle follows the capability that the kernel asks for: with
//! the capability dropped nothing is lost, and the code behind it is out of reach (CVE-2022-0185, CVE-2024-1086).

use spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Files, directories and their attributes.
#[rustfmt::skip]
const FILES: &[&str] = &[
    "access", "cachestat", "chdir", "chmod", "chown", "chown32", "close", "close_range", "copy_file_range", "creat", "dup",
    "dup2", "dup3", "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fanotify_mark", "fchdir", "fchmod",
    "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr", "file_getattr",
    "file_setattr", "flistxattr", "flock", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs",
    "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futimesat", "getcwd", "getdents", "getdents64", "getxattr",
    "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "ioctl", "lchown", "lchown32",
    "lgetxattr", "link", "linkat", "listmount", "listxattr", "listxattrat", "llistxattr", "_llseek", "lremovexattr", "lseek",
    "lsetxattr", "lstat", "lstat64", "mkdir", "mkdirat", "mknod", "mknodat", "name_to_handle_at", "newfstatat", "open",
    "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readdir",
    "readlink", "readlinkat", "readv", "removexattr", "removexattrat", "rename", "renameat", "renameat2", "rmdir",
    "sendfile", "sendfile64", "setxattr", "setxattrat", "splice", "stat", "stat64", "statfs", "statfs64", "statmount",
    "statx", "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "tee", "truncate", "truncate64", "umask", "unlink",
    "unlinkat", "utime", "utimensat", "utimensat_time64", "utimes", "vmsplice", "write", "writev",
];

/// Memory.
#[rustfmt::skip]
const MEMORY: &[&str] = &[
    "brk", "get_mempolicy", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mlock",
    "mlock2", "mlockall", "mmap", "mmap2", "modify_ldt", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall",
    "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect", "process_mrelease", "remap_file_pages", "rseq", "set_thread_area",
    "get_thread_area",
];

/// Processes, threads, signals, identities and limits.
#[rustfmt::skip]
const PROCESSES: &[&str] = &[
    "alarm", "arch_prctl", "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_requeue",
    "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "get_robust_list", "getcpu", "getegid", "getegid32",
    "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getpgid", "getpgrp", "getpid", "getppid",
    "getpriority", "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "getrusage", "getsid", "gettid",
    "getuid", "getuid32", "ioprio_get", "ioprio_set", "kill", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "pause", "pidfd_open",
    "pidfd_send_signal", "prctl", "prlimit64", "ptrace", "process_vm_readv", "process_vm_writev", "restart_syscall",
    "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min",
    "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    "sched_yield", "seccomp", "set_robust_list", "set_tid_address", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32",
    "setgid", "setgid32", "setgroups", "setgroups32", "setpgid", "setpriority", "setregid", "setregid32", "setresgid",
    "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setrlimit", "setsid", "setuid", "setuid32",
    "sgetmask", "sigaction", "sigaltstack", "signal", "signalfd", "signalfd4", "sigpending", "sigprocmask", "sigreturn",
    "sigsuspend", "ssetmask", "sysinfo", "tgkill", "times", "tkill", "ugetrlimit", "uname", "vfork", "wait4", "waitid",
    "waitpid",
];

/// Waiting, timers, pipes, messages, asynchronous I/O.
#[rustfmt::skip]
const EVENTS: &[&str] = &[
    "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime",
    "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "epoll_create", "epoll_create1", "epoll_ctl",
    "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "getitimer",
    "getrandom", "gettimeofday", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64",
    "io_setup", "io_submit", "ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
    "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "nanosleep", "_newselect",
    "pipe", "pipe2", "poll", "ppoll", "ppoll_time64", "pselect6", "pselect6_time64", "select", "semctl", "semget", "semop",
    "semtimedop", "semtimedop_time64", "setitimer", "shmat", "shmctl", "shmdt", "shmget", "time", "timer_create",
    "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
    "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
];

/// Sockets, once made.
#[rustfmt::skip]
const SOCKETS: &[&str] = &[
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom",
    "recvmmsg", "recvmmsg_time64", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair",
];

/// What a capability opens.
#[rustfmt::skip]
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "SYS_ADMIN",
        &[
            "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount",
            "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "perf_event_open", "pivot_root", "quotactl",
            "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["ioperm", "iopl"]),
    ("SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    ("SYS_NICE", &["mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
    ("PERFMON", &["perf_event_open"]),
];

/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET`; `NEWTIME` overlaps clone's exit signal and
/// exists in clone3 and unshare only.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Execution domains that do not weaken anything: Linux, Linux with uname 2.6 or with a 32-bit name, and "what is it".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Socket families above `AF_ALG` (38) that stay open: `AF_NFC`, `AF_KCM`, `AF_QIPCRTR`, `AF_SMC`, `AF_XDP`, `AF_MCTP`.
const FAMILIES_ABOVE_ALG: [u64; 6] = [39, 41, 42, 43, 44, 45];
const AF_ALG: u64 = 38;

/// The i386 multiplexer `socketcall`: its call number for `socket`, whose family lies in memory, where no filter can look.
const SOCKETCALL_SOCKET: u64 = 1;

/// The default profile for a process with these effective capabilities (`CAP_SYS_ADMIN` or `SYS_ADMIN`).
#[must_use]
pub fn default_profile<S: AsRef<str>>(capabilities: &[S]) -> LinuxSeccomp {
    let has = |name: &str| {
        capabilities
            .iter()
            .any(|own| own.as_ref().trim_start_matches("CAP_") == name)
    };
    let mut syscalls = vec![
        allow(FILES, &[]),
        allow(MEMORY, &[]),
        allow(PROCESSES, &[]),
        allow(EVENTS, &[]),
        allow(SOCKETS, &[]),
    ];
    for value in PERSONALITIES {
        syscalls.push(allow(
            &["personality"],
            &[arg(LinuxSeccompOperator::ScmpCmpEq, value, None)],
        ));
    }
    // Three sorts of rules rather than two "not equal" on one argument: other compilers OR those (runc), and an equality
    // cannot be dodged by setting bits that the kernel cuts off. AF_ALG: CVE-2026-31431; AF_VSOCK (40) reaches the host of
    // a virtual machine and is not namespaced.
    syscalls.push(allow(
        &["socket"],
        &[arg(LinuxSeccompOperator::ScmpCmpLt, AF_ALG, None)],
    ));
    for family in FAMILIES_ABOVE_ALG {
        syscalls.push(allow(
            &["socket"],
            &[arg(LinuxSeccompOperator::ScmpCmpEq, family, None)],
        ));
    }
    syscalls.push(allow(
        &["socketcall"],
        &[arg(LinuxSeccompOperator::ScmpCmpNe, SOCKETCALL_SOCKET, None)],
    ));
    if !has("SYS_ADMIN") {
        let mask = arg(LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NAMESPACES, Some(0));
        syscalls.push(allow(&["clone"], &[mask]));
        // Its flags lie in memory. ENOSYS makes libc use clone, EPERM would make it give up.
        let mut clone3 = rule(&["clone3"], LinuxSeccompAction::ScmpActErrno, &[]);
        clone3.set_errno_ret(Some(ENOSYS));
        syscalls.push(clone3);
    }
    syscalls.extend(
        BY_CAPABILITY
            .iter()
            .filter(|(name, _)| has(name))
            .map(|(_, names)| allow(names, &[])),
    );
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(EPERM));
    profile.set_architectures(Some(architectures()));
    profile.set_syscalls(Some(syscalls));
    profile
}

fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64]
    } else {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    }
}

fn allow(names: &[&str], args: &[LinuxSeccompArg]) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow, args)
}

fn rule(names: &[&str], action: LinuxSeccompAction, args: &[LinuxSeccompArg]) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect());
    rule.set_action(action);
    rule.set_args((!args.is_empty()).then(|| args.to_vec()));
    rule
}

/// A condition on the first argument.
#[expect(
    clippy::expect_used,
    reason = "the builder has a default for every field: it cannot fail"
)]
fn arg(op: LinuxSeccompOperator, value: u64, second: Option<u64>) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default().index(0usize).op(op).value(value);
    match second {
        Some(second) => builder.value_two(second),
        None => builder,
    }
    .build()
    .expect("complete")
}
