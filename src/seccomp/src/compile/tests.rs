use super::*;
use crate::default_profile;
use crate::syscalls::{NONE, TABLE};

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

/// Runs a program as the kernel would on one call; a program that leaves itself or uses another instruction fails.
fn run(program: &Program, arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let mut accumulator = 0u32;
    let mut at = 0usize;
    loop {
        let insn = program.filter[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { insn.jt } else { insn.jf });
        match insn.code {
            0x20 => {
                let offset = insn.k as usize;
                assert_eq!(offset % 4, 0);
                accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            0x54 => accumulator &= insn.k,
            0x05 => at += insn.k as usize,
            0x15 => at += jump(accumulator == insn.k),
            0x25 => at += jump(accumulator > insn.k),
            0x35 => at += jump(accumulator >= insn.k),
            0x06 => return insn.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

fn profile(json: serde_json::Value) -> Program {
    compile(&serde_json::from_value(json).unwrap()).unwrap()
}

fn error(json: serde_json::Value) -> Error {
    compile(&serde_json::from_value(json).unwrap()).unwrap_err()
}

const EDGES: [u64; 15] = [
    0,
    1,
    0x7fff_fffe,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0x8000_0000_8000_0000,
    0xffff_ffff_0000_0000,
    u64::MAX,
];

fn holds(op: &str, arg: u64, value: u64, second: u64) -> bool {
    match op {
        "SCMP_CMP_NE" => arg != value,
        "SCMP_CMP_LT" => arg < value,
        "SCMP_CMP_LE" => arg <= value,
        "SCMP_CMP_EQ" => arg == value,
        "SCMP_CMP_GE" => arg >= value,
        "SCMP_CMP_GT" => arg > value,
        _ => arg & value == second,
    }
}

const OPS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];

#[test]
fn sixty_four_bits_are_compared_right() {
    for op in OPS {
        for value in EDGES {
            let second = value & 0x8000_0001_8000_0001;
            let program = profile(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 2, "op": op, "value": value, "valueTwo": second}]}]}));
            for arg in EDGES {
                let allowed = run(&program, X86_64, 0, [7, 7, arg, 7, 7, 7]) == ALLOW;
                assert_eq!(
                    allowed,
                    holds(op, arg, value, second),
                    "{arg:#x} {op} {value:#x} {second:#x}"
                );
            }
        }
    }
}

#[test]
fn conditions_are_anded_on_one_argument_too() {
    for (a, b) in [(0, 1), (2, 2)] {
        for (first, second) in [
            ("SCMP_CMP_GE", "SCMP_CMP_LE"),
            ("SCMP_CMP_NE", "SCMP_CMP_NE"),
            ("SCMP_CMP_EQ", "SCMP_CMP_EQ"),
        ] {
            let program = profile(
                serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": a, "op": first, "value": 10}, {"index": b, "op": second, "value": 20}]}]}),
            );
            for x in [0, 9, 10, 11, 20, 21] {
                for y in [0, 9, 10, 11, 20, 21] {
                    let mut args = [0; 6];
                    args[a] = x;
                    args[b] = y;
                    let expected = holds(first, args[a], 10, 0) && holds(second, args[b], 20, 0);
                    assert_eq!(
                        run(&program, X86_64, 0, args) == ALLOW,
                        expected,
                        "{first} {second} {args:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_ioctl_request_is_compared_as_the_kernel_sees_it() {
    let tiocsti = 0x5412u64;
    let deny = |op: &str, second: u64, value: u64| {
        profile(serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "op": op, "value": value, "valueTwo": second}]}]}))
    };
    for program in [
        deny("SCMP_CMP_EQ", 0, tiocsti),
        deny("SCMP_CMP_MASKED_EQ", tiocsti, u64::MAX),
    ] {
        for high in [0, 1, 0x8000_0000, 0xffff_ffff] {
            assert_eq!(
                run(&program, X86_64, 16, [0, tiocsti | high << 32, 0, 0, 0, 0]),
                ERRNO | EPERM
            );
        }
        assert_eq!(run(&program, X86_64, 16, [0, tiocsti + 1, 0, 0, 0, 0]), ALLOW);
    }
}

#[test]
fn rules_for_one_call() {
    let program = profile(
        serde_json::json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
        {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 3}]},
        {"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "op": "SCMP_CMP_LE", "value": 3}]},
        {"names": ["write"], "action": "SCMP_ACT_TRACE", "errnoRet": 9}, {"names": ["open"], "action": "SCMP_ACT_KILL"}]}),
    );
    assert_eq!(run(&program, X86_64, 0, [3, 0, 0, 0, 0, 0]), LOG);
    assert_eq!(run(&program, X86_64, 0, [2, 0, 0, 0, 0, 0]), TRAP);
    assert_eq!(run(&program, X86_64, 0, [4, 0, 0, 0, 0, 0]), ERRNO | 5);
    assert_eq!(run(&program, X86_64, 1, [0; 6]), TRACE | 9);
    assert_eq!(run(&program, X86_64, 2, [0; 6]), KILL_THREAD);
    assert_eq!(run(&program, X86_64, 3, [0; 6]), KILL_PROCESS);
}

#[test]
fn other_abis_are_killed_unless_listed() {
    let rules = serde_json::json!([{"names": ["getpid"], "action": "SCMP_ACT_ALLOW"}]);
    let native = profile(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}));
    assert_eq!(run(&native, X86_64, 39, [0; 6]), ALLOW);
    for (arch, number) in [
        (I386, 20),
        (X86_64, X32_BIT | 39),
        (X86_64, u32::MAX - 1),
        (0xc000_00b7, 172),
        (0, 39),
    ] {
        assert_eq!(
            run(&native, arch, number, [0; 6]),
            KILL_PROCESS,
            "{arch:#x} {number:#x}"
        );
    }
    // A tracer that skips a call writes -1.
    assert_eq!(run(&native, X86_64, u32::MAX, [0; 6]), ERRNO | EPERM);
    let all = profile(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules,
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86_64", "SCMP_ARCH_S390X"]}));
    for (arch, number) in [(I386, 20), (X86_64, X32_BIT | 39), (X86_64, 39)] {
        assert_eq!(run(&all, arch, number, [0; 6]), ALLOW);
        // The same number in another table is another call.
        assert_ne!(run(&all, arch, number + 1, [0; 6]), ALLOW);
    }
    assert_eq!(run(&all, I386, 39, [0; 6]), ERRNO | ENOSYS);
    assert_eq!(run(&all, 0x8000_0016, 20, [0; 6]), KILL_PROCESS);
}

#[test]
fn what_is_newer_than_the_profile_does_not_exist() {
    let rules = serde_json::json!([{"names": ["read", "statx"], "action": "SCMP_ACT_ALLOW"}]);
    let program =
        profile(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": rules}));
    assert_eq!(run(&program, X86_64, 332, [0; 6]), ALLOW);
    assert_eq!(run(&program, X86_64, 331, [0; 6]), ERRNO | 13);
    assert_eq!(run(&program, X86_64, 333, [0; 6]), ERRNO | ENOSYS);
    assert_eq!(run(&program, X86_64, 5000, [0; 6]), ERRNO | ENOSYS);
    let strict = profile(serde_json::json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": rules}));
    assert_eq!(run(&strict, X86_64, 333, [0; 6]), KILL_PROCESS);
    let lax = profile(
        serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}]}),
    );
    assert_eq!(run(&lax, X86_64, 5000, [0; 6]), ALLOW);
}

#[test]
fn flags_notify_and_unknown_names() {
    let program = profile(
        serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x.sock",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": ["mkdir", "of_the_future"], "action": "SCMP_ACT_NOTIFY"}]}),
    );
    assert_eq!(
        (program.flags, program.notify),
        (FLAG_LOG | FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE, true)
    );
    assert_eq!(program.ignored, ["of_the_future"]);
    assert_eq!(run(&program, X86_64, 83, [0; 6]), NOTIFY);
    let plain = profile(
        serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}),
    );
    assert_eq!((plain.flags, plain.notify), (FLAG_SPEC_ALLOW, false));
}

#[test]
fn impossible_profiles_are_refused() {
    let one = |rule: serde_json::Value| serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    assert!(matches!(
        error(serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
        Error::Notify(_)
    ));
    assert!(matches!(
        error(one(
            serde_json::json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"})
        )),
        Error::Notify(_)
    ));
    let mut listening = one(serde_json::json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"}));
    listening["listenerPath"] = "/x".into();
    assert!(matches!(error(listening), Error::Notify(_)));
    assert_eq!(
        error(one(
            serde_json::json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 70000})
        )),
        Error::Errno(70000)
    );
    let arg = serde_json::json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "op": "SCMP_CMP_EQ", "value": 1}]});
    assert!(matches!(error(one(arg)), Error::Argument { index: 6, .. }));
    let many: Vec<_> = (0..500)
        .map(|value| {
            serde_json::json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [
        {"index": 0, "op": "SCMP_CMP_GE", "value": value}, {"index": 1, "op": "SCMP_CMP_LE", "value": value}]})
        })
        .collect();
    assert!(matches!(
        error(serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": many})),
        Error::TooLarge(_)
    ));
}

fn default_answer(program: &Program, name: &str, first: u64) -> u32 {
    run(
        program,
        X86_64,
        Abi::X86_64.number(name).unwrap(),
        [first, 0, 0, 0, 0, 0],
    )
}

#[test]
fn the_default_profile_over_the_whole_table() {
    let program = compile(&default_profile::<&str>(&[])).unwrap();
    assert!(
        program
            .ignored
            .iter()
            .all(|name| name == "recv" || name == "send" || name == "utimensat_time64"),
        "{:?}",
        program.ignored
    );
    let denied: Vec<&str> = TABLE
        .iter()
        .filter(|(_, numbers)| numbers[0] != NONE)
        .filter(|(_, numbers)| run(&program, X86_64, u32::from(numbers[0]), [0; 6]) != ALLOW)
        .map(|(name, _)| *name)
        .collect();
    let expected = "_sysctl acct add_key afs_syscall bpf chroot clock_settime clone3 create_module delete_module fanotify_init \
        finit_module fsconfig fsmount fsopen fspick get_kernel_syms getpmsg init_module io_uring_enter io_uring_register \
        io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr \
        move_mount move_pages nfsservctl open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root \
        process_madvise putpmsg query_module quotactl quotactl_fd reboot request_key security set_mempolicy \
        set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog tuxcall umount2 \
        unshare uselib userfaultfd ustat vhangup vserver";
    assert_eq!(denied, expected.split_whitespace().collect::<Vec<_>>());
    println!("{} instructions", program.filter.len());
}

#[test]
fn the_default_profile_where_arguments_decide() {
    let program = compile(&default_profile::<&str>(&[])).unwrap();
    let denied = ERRNO | EPERM;
    for (family, answer) in [
        (1, ALLOW),
        (2, ALLOW),
        (16, ALLOW),
        (38, denied),
        (40, denied),
        (44, ALLOW),
        (46, denied),
        (1000, denied),
    ] {
        for high in [0, 1u64 << 32, 0xffff_ffff << 32] {
            assert_eq!(
                default_answer(&program, "socket", family | high),
                answer,
                "family {family}"
            );
        }
        assert_eq!(
            run(&program, I386, 359, [family, 0, 0, 0, 0, 0]),
            answer,
            "i386 family {family}"
        );
        assert_eq!(
            run(&program, X86_64, X32_BIT | 41, [family, 0, 0, 0, 0, 0]),
            answer,
            "x32 family {family}"
        );
    }
    assert_eq!(
        run(&program, I386, 102, [1, 0, 0, 0, 0, 0]),
        denied,
        "socketcall(SYS_SOCKET)"
    );
    assert_eq!(
        run(&program, I386, 102, [3, 0, 0, 0, 0, 0]),
        ALLOW,
        "socketcall(SYS_CONNECT)"
    );
    for flag in [
        0x2_0000u64,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        assert_eq!(default_answer(&program, "clone", flag | 17), denied, "{flag:#x}");
    }
    assert_eq!(default_answer(&program, "clone", 0x003d_0f00), ALLOW, "pthread_create");
    assert_eq!(default_answer(&program, "clone3", 0), ERRNO | ENOSYS);
    for (domain, answer) in [
        (0, ALLOW),
        (8, ALLOW),
        (0xffff_ffff, ALLOW),
        (0x0004_0000, denied),
        (0x0040_0000, denied),
    ] {
        assert_eq!(default_answer(&program, "personality", domain), answer, "{domain:#x}");
    }
    assert_eq!(
        run(&program, X86_64, 470, [0; 6]),
        ERRNO | ENOSYS,
        "newer than the profile"
    );
}

#[test]
fn capabilities_open_what_the_kernel_guards_with_them() {
    for (capability, opened) in [
        (
            "CAP_SYS_ADMIN",
            &["mount", "setns", "unshare", "clone3", "bpf", "fsopen"][..],
        ),
        ("SYS_CHROOT", &["chroot"]),
        ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
        ("CAP_SYS_TIME", &["settimeofday", "clock_settime"]),
        ("CAP_BPF", &["bpf"]),
        ("CAP_PERFMON", &["perf_event_open"]),
    ] {
        let program = compile(&default_profile(&[capability])).unwrap();
        for name in opened {
            assert_eq!(
                default_answer(&program, name, 0x1000_0000),
                ALLOW,
                "{capability} {name}"
            );
        }
        for name in ["keyctl", "userfaultfd", "io_uring_setup", "kexec_load"] {
            assert_eq!(default_answer(&program, name, 0), ERRNO | EPERM, "{capability} {name}");
        }
    }
    let program = compile(&default_profile(&["CAP_SYS_ADMIN"])).unwrap();
    assert_eq!(default_answer(&program, "clone", 0x1000_0000), ALLOW);
    assert_eq!(default_answer(&program, "socket", 38), ERRNO | EPERM);
}

#[test]
fn every_instruction_jumps_forward_inside() {
    let program = compile(&default_profile(&["CAP_SYS_ADMIN", "CAP_SYS_NICE"])).unwrap();
    let len = program.filter.len();
    for (at, insn) in program.filter.iter().enumerate() {
        match insn.code {
            0x05 => assert!(at + 1 + (insn.k as usize) < len),
            0x15 | 0x25 | 0x35 => assert!(at + 1 + usize::from(insn.jt.max(insn.jf)) < len),
            _ => {}
        }
    }
    assert_eq!(program.filter[len - 1].code, 0x06);
}
