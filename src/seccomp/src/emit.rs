//! Decisions to instructions: a binary search over the numbers, conditions at its leaves.
//!
//! Only loads, jumps, ANDs and returns are used, and no argument is loaded on the way to an unconditional answer: the
//! kernel then finds out once which calls are always allowed and never runs the filter for them (the action cache of
//! Linux 5.11).

use sys::seccomp::SockFilter;

const LD_ABS: u16 = 0x20;
const AND: u16 = 0x54;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RET: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

pub(crate) fn load_arch() -> SockFilter {
    insn(LD_ABS, 0, 0, ARCH)
}

pub(crate) fn load_number() -> SockFilter {
    insn(LD_ABS, 0, 0, NUMBER)
}

pub(crate) fn ret(action: u32) -> SockFilter {
    insn(RET, 0, 0, action)
}

/// `body`, run when the accumulator equals `value`, jumped over otherwise.
pub(crate) fn when_equal(value: u32, body: Vec<SockFilter>) -> Vec<SockFilter> {
    let mut code = vec![insn(JEQ, 1, 0, value), insn(JA, 0, 0, length(&body))];
    code.extend(body);
    code
}

fn insn(code: u16, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter { code, jt, jf, k }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a program has at most 4096 instructions, checked at the end"
)]
fn length(code: &[SockFilter]) -> u32 {
    code.len() as u32
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessEqual(u64),
    Greater(u64),
    GreaterEqual(u64),
    Masked { mask: u64, value: u64 },
}

/// One condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) index: u32,
    pub(crate) is_32_bit: bool,
    pub(crate) test: Test,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Always(u32),
    /// The first rule whose conditions all hold; else the last action.
    Ask {
        rules: Vec<(Vec<Condition>, u32)>,
        otherwise: u32,
    },
}

/// The search: `ranges` are first numbers, ascending from the lowest that can arrive, each with what holds up to the
/// next. The number is in the accumulator.
pub(crate) fn search(ranges: &[(u32, Decision)]) -> Vec<SockFilter> {
    match ranges {
        [] => Vec::new(),
        [(_, decision)] => leaf(decision),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let (below, above) = (search(left), search(right));
            let pivot = right[0].0;
            let mut code = match u8::try_from(below.len()) {
                Ok(skip) => vec![insn(JGE, skip, 0, pivot)],
                // Conditional jumps reach 255 instructions; this one goes by way of a long jump.
                Err(_) => vec![insn(JGE, 0, 1, pivot), insn(JA, 0, 0, length(&below))],
            };
            code.extend(below);
            code.extend(above);
            code
        }
    }
}

fn leaf(decision: &Decision) -> Vec<SockFilter> {
    match decision {
        Decision::Always(action) => vec![ret(*action)],
        Decision::Ask { rules, otherwise } => {
            let mut code: Vec<SockFilter> = rules
                .iter()
                .flat_map(|(conditions, action)| rule(conditions, *action))
                .collect();
            code.push(ret(*otherwise));
            code
        }
    }
}

/// All conditions, then the action; a condition that fails jumps behind it.
fn rule(conditions: &[Condition], action: u32) -> Vec<SockFilter> {
    let mut code = vec![ret(action)];
    for one in conditions.iter().rev() {
        let mut test = condition(one);
        // The last instruction of a test is its way out.
        let skip = length(&code);
        if let Some(last) = test.last_mut() {
            last.k = skip;
        }
        test.extend(code);
        code = test;
    }
    code
}

/// Ends with a long jump (filled in by the caller) that is taken where the condition does not hold; where it holds, the
/// instruction after that jump is next. 64-bit words are little-endian here, and the high half is looked at first.
fn condition(one: &Condition) -> Vec<SockFilter> {
    let low = insn(LD_ABS, 0, 0, ARGS + 8 * one.index);
    let high = insn(LD_ABS, 0, 0, ARGS + 8 * one.index + 4);
    let out = insn(JA, 0, 0, 0);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a 64-bit value")]
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    if one.is_32_bit {
        let code =
            |jump, value, holds: bool| vec![low, insn(jump, u8::from(holds), u8::from(!holds), halves(value).1), out];
        return match one.test {
            Test::Equal(value) => code(JEQ, value, true),
            Test::NotEqual(value) => code(JEQ, value, false),
            Test::Less(value) => code(JGE, value, false),
            Test::LessEqual(value) => code(JGT, value, false),
            Test::Greater(value) => code(JGT, value, true),
            Test::GreaterEqual(value) => code(JGE, value, true),
            Test::Masked { mask, value } => vec![
                low,
                insn(AND, 0, 0, halves(mask).1),
                insn(JEQ, 1, 0, halves(value).1),
                out,
            ],
        };
    }
    // Jump distances count from the next instruction to `out` or behind it.
    let order = |value: u64, jump: u16| {
        let (top, bottom) = halves(value);
        vec![
            high,
            insn(JGT, 4, 0, top),
            insn(JEQ, 0, 2, top),
            low,
            insn(jump, 1, 0, bottom),
            out,
        ]
    };
    let reverse = |value: u64, jump: u16| {
        let (top, bottom) = halves(value);
        vec![
            high,
            insn(JGT, 3, 0, top),
            insn(JEQ, 0, 3, top),
            low,
            insn(jump, 0, 1, bottom),
            out,
        ]
    };
    match one.test {
        Test::Equal(value) => {
            let (top, bottom) = halves(value);
            vec![high, insn(JEQ, 0, 2, top), low, insn(JEQ, 1, 0, bottom), out]
        }
        Test::NotEqual(value) => {
            let (top, bottom) = halves(value);
            vec![high, insn(JEQ, 0, 3, top), low, insn(JEQ, 0, 1, bottom), out]
        }
        Test::Greater(value) => order(value, JGT),
        Test::GreaterEqual(value) => order(value, JGE),
        Test::Less(value) => reverse(value, JGE),
        Test::LessEqual(value) => reverse(value, JGT),
        Test::Masked { mask, value } => {
            let ((mask_top, mask_bottom), (top, bottom)) = (halves(mask), halves(value));
            vec![
                high,
                insn(AND, 0, 0, mask_top),
                insn(JEQ, 0, 3, top),
                low,
                insn(AND, 0, 0, mask_bottom),
                insn(JEQ, 1, 0, bottom),
                out,
            ]
        }
    }
}
