use super::*;

fn rules(json: &str) -> Rules {
    let list: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
    Rules::parse(&list).unwrap()
}

/// What the rules mean, written the slow way: each access for itself, the last rule that speaks about it wins.
fn meaning(rules: &Rules, sort: Sort, major: u32, minor: u32, access: u8) -> bool {
    [READ, WRITE, MKNOD]
        .into_iter()
        .filter(|bit| access & bit != 0)
        .all(|bit| {
            let speaks = |rule: &&Rule| {
                (rule.sort == Sort::Any || rule.sort == sort)
                    && rule.major.is_none_or(|own| own == major)
                    && rule.minor.is_none_or(|own| own == minor)
                    && rule.access & bit != 0
            };
            rules.0.iter().rev().find(speaks).is_some_and(|rule| rule.allow)
        })
}

/// Runs the instructions that this module emits; any other is a failure.
fn run(program: &[Insn], sort: Sort, major: u32, minor: u32, access: u8) -> bool {
    let sort = if sort == Sort::Block { 1 } else { 2 };
    let context = [u32::from(access) << 16 | sort, major, minor];
    let mut regs = [0u32; 10];
    let mut at = 0usize;
    loop {
        let insn = program[at];
        let (dst, src) = (usize::from(insn.regs & 15), usize::from(insn.regs >> 4));
        let imm = insn.imm.cast_unsigned();
        at += 1;
        let skip = usize::try_from(insn.off).unwrap();
        match insn.code {
            LOAD_WORD => regs[dst] = context[skip / 4],
            AND_IMM => regs[dst] &= imm,
            RSH_IMM => regs[dst] >>= imm,
            MOV_REG => regs[dst] = regs[src],
            MOV_IMM => regs[dst] = imm,
            JNE_IMM if regs[dst] != imm => at += skip,
            JEQ_IMM if regs[dst] == imm => at += skip,
            JNE_IMM | JEQ_IMM => {}
            EXIT => return regs[0] == 1,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

const LISTS: [&str; 7] = [
    "[]",
    r#"[{"allow": false, "access": "rwm"}]"#,
    r#"[{"allow": true, "access": "rwm"}]"#,
    r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "access": "m"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}]"#,
    r#"[{"allow": true, "type": "b", "major": 8, "access": "rwm"}, {"allow": false, "type": "b", "major": 8, "minor": 0, "access": "w"}]"#,
    r#"[{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}, {"allow": true, "type": "c", "major": 1, "access": "w"}]"#,
    r#"[{"allow": true, "type": "a"}, {"allow": false, "major": 1}, {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"}]"#,
];

#[test]
fn the_program_means_what_the_rules_mean() {
    for list in LISTS {
        let rules = rules(list);
        let program = v2_program(&rules);
        for sort in [Sort::Block, Sort::Char] {
            for (major, minor) in [(1, 3), (1, 5), (8, 0), (8, 1), (0, 0), (u32::MAX, 3)] {
                for access in 1..=ALL {
                    let expected = meaning(&rules, sort, major, minor, access);
                    assert_eq!(
                        run(&program, sort, major, minor, access),
                        expected,
                        "{list} {sort:?} {major}:{minor} {access}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_kernel_takes_every_program() {
    for list in LISTS {
        bpf::load_device(&v2_program(&rules(list))).unwrap_or_else(|error| panic!("{list}: {error}"));
    }
}

#[test]
fn v1_denies_everything_first() {
    let lines = |list| v1_lines(&rules(list)).unwrap();
    assert_eq!(lines("[]"), [("devices.deny", "a".to_owned())]);
    let default =
        r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]"#;
    assert_eq!(
        lines(default),
        [
            ("devices.deny", "a".to_owned()),
            ("devices.allow", "c 1:3 rwm".to_owned())
        ]
    );
    assert_eq!(
        lines(r#"[{"allow": true, "access": "rwm"}]"#),
        [("devices.allow", "a".to_owned())]
    );
    let any = lines(r#"[{"allow": true, "type": "a", "major": 10, "access": "r"}]"#);
    assert_eq!(
        any[1..],
        [
            ("devices.allow", "b 10:* r".to_owned()),
            ("devices.allow", "c 10:* r".to_owned())
        ]
    );
}

#[test]
fn bad_rules_are_refused() {
    for bad in [
        r#"{"allow": true, "type": "p"}"#,
        r#"{"allow": true, "access": "rx"}"#,
        r#"{"allow": true, "major": -2}"#,
        r#"{"allow": true, "minor": 4294967296}"#,
    ] {
        let rule: LinuxDeviceCgroup = serde_json::from_str(bad).unwrap();
        assert!(parse_one(&rule).is_err(), "{bad}");
    }
}
