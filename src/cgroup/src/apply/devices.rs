//! The device list: everything is denied, then the rules are followed in order, the last one that speaks about an
//! access wins. An empty list therefore allows nothing (GHSA-g54h-m393-cpwq: it once meant "no deny list").
//!
//! v1 keeps the list in the kernel. v2 wants a program, built here: it walks the rules from the last to the first with
//! the set of accesses still undecided; a matching allow takes its accesses out of the set and says yes when none is left,
//! a matching deny of one that is left says no, the end of the list says no.

use std::os::fd::AsFd as _;

use spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use sys::bpf::{self, Insn};

use crate::{Cgroup, Error, Version, file};

// enum and bits of include/uapi/linux/bpf.h, struct bpf_cgroup_dev_ctx.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Any,
    Block,
    Char,
}

/// One rule, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    sort: Sort,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

impl Rule {
    fn is_everything(&self) -> bool {
        self.sort == Sort::Any && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// The whole list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    pub(super) fn parse(rules: &[LinuxDeviceCgroup]) -> Result<Self, Error> {
        let parsed: Vec<Rule> = rules.iter().map(parse_one).collect::<Result<_, _>>()?;
        // What comes before a rule about everything is without effect.
        let last = parsed.iter().rposition(Rule::is_everything).unwrap_or(0);
        Ok(Self(parsed[last..].to_vec()))
    }
}

fn parse_one(rule: &LinuxDeviceCgroup) -> Result<Rule, Error> {
    let number = |what, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| Error::invalid(what, &value.to_string(), "a device number or -1 is wanted")),
    };
    let sort = match rule.typ() {
        None | Some(LinuxDeviceType::A) => Sort::Any,
        Some(LinuxDeviceType::B) => Sort::Block,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Sort::Char,
        Some(LinuxDeviceType::P) => {
            return Err(Error::invalid(
                "device rule",
                "p",
                "a pipe is no device: a, b or c is wanted",
            ));
        }
    };
    let letters = rule.access().as_deref().unwrap_or_default();
    let mut access = 0;
    for letter in letters.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => {
                return Err(Error::invalid(
                    "device access",
                    letters,
                    "letters out of r, w and m are wanted",
                ));
            }
        };
    }
    // No letters: all of them, as the peers read it.
    let access = if access == 0 { ALL } else { access };
    Ok(Rule {
        allow: rule.allow(),
        sort,
        major: number("device major", rule.major())?,
        minor: number("device minor", rule.minor())?,
        access,
    })
}

/// The lines for v1: (file, value), after the initial "a" to `devices.deny`.
fn v1_lines(rules: &Rules) -> Result<Vec<(&'static str, String)>, Error> {
    let mut lines = Vec::new();
    let opens = rules.0.first().is_some_and(|rule| rule.allow && rule.is_everything());
    lines.push((if opens { "devices.allow" } else { "devices.deny" }, "a".to_owned()));
    let done = usize::from(rules.0.first().is_some_and(Rule::is_everything));
    for rule in &rules.0[done..] {
        let name = if rule.allow { "devices.allow" } else { "devices.deny" };
        let sorts: &[char] = match rule.sort {
            // "a" means everything to the kernel, whatever numbers follow: spell the two sorts out.
            Sort::Any => &['b', 'c'],
            Sort::Block => &['b'],
            Sort::Char => &['c'],
        };
        let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
        let letters: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .into_iter()
            .filter(|(bit, _)| rule.access & bit != 0)
            .map(|(_, letter)| letter)
            .collect();
        for sort in sorts {
            lines.push((
                name,
                format!("{sort} {}:{} {letters}", number(rule.major), number(rule.minor)),
            ));
        }
    }
    Ok(lines)
}

// Registers: 1 context, 2 sort, 3 accesses still undecided, 4 major, 5 minor, 6 scratch, 0 verdict.
const LOAD_WORD: u8 = 0x61; // LDX | MEM | W
const AND_IMM: u8 = 0x54; // ALU32 | AND | K
const RSH_IMM: u8 = 0x74; // ALU32 | RSH | K
const MOV_REG: u8 = 0xbc; // ALU32 | MOV | X
const MOV_IMM: u8 = 0xb7; // ALU64 | MOV | K
const JNE_IMM: u8 = 0x56; // JMP32 | JNE | K
const JEQ_IMM: u8 = 0x16; // JMP32 | JEQ | K
const EXIT: u8 = 0x95;

fn op(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        regs: dst | src << 4,
        off,
        imm,
    }
}

/// The program for v2.
fn v2_program(rules: &Rules) -> Vec<Insn> {
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOV_REG, 3, 2, 0, 0),
        op(AND_IMM, 2, 0, 0, 0xffff),
        op(RSH_IMM, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.0.iter().rev() {
        program.extend(v2_rule(rule));
    }
    program.extend([op(MOV_IMM, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    program
}

fn v2_rule(rule: &Rule) -> Vec<Insn> {
    let access = i32::from(rule.access);
    let body: Vec<Insn> = if rule.allow {
        vec![
            op(AND_IMM, 3, 0, 0, !access & i32::from(ALL)),
            op(JNE_IMM, 3, 0, 2, 0),
            op(MOV_IMM, 0, 0, 0, 1),
            op(EXIT, 0, 0, 0, 0),
        ]
    } else {
        vec![
            op(MOV_REG, 6, 3, 0, 0),
            op(AND_IMM, 6, 0, 0, access),
            op(JEQ_IMM, 6, 0, 2, 0),
            op(MOV_IMM, 0, 0, 0, 0),
            op(EXIT, 0, 0, 0, 0),
        ]
    };
    let sort = match rule.sort {
        Sort::Any => None,
        Sort::Block => Some(1),
        Sort::Char => Some(2),
    };
    // Device numbers are compared as 32-bit patterns.
    let number = |value: Option<u32>| value.map(u32::cast_signed);
    let tests: Vec<(u8, i32)> = [(2, sort), (4, number(rule.major)), (5, number(rule.minor))]
        .into_iter()
        .filter_map(|(reg, value)| Some((reg, value?)))
        .collect();
    let mut code = Vec::with_capacity(tests.len() + body.len());
    for (index, (reg, value)) in tests.iter().enumerate() {
        let skip = tests.len() - index - 1 + body.len();
        code.push(op(JNE_IMM, *reg, 0, i16::try_from(skip).unwrap_or(i16::MAX), *value));
    }
    code.extend(body);
    code
}

impl Cgroup {
    pub(super) fn apply_devices(&self, rules: &Rules) -> Result<(), Error> {
        if let Some(dir) = self.dir("devices").filter(|dir| dir.version == Version::V1) {
            return v1_lines(rules)?
                .iter()
                .try_for_each(|(name, value)| file::write(&dir.path.join(name), value));
        }
        let dir = self.v2().ok_or(Error::Missing {
            what: "a device list",
            controller: "devices",
        })?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let handle = rustix::fs::open(&dir.path, flags, rustix::fs::Mode::empty())
            .map_err(|errno| Error::at("open", &dir.path)(errno.into()))?;
        let program =
            bpf::load_device(&v2_program(rules)).map_err(Error::at("load the device program of", &dir.path))?;
        let earlier =
            bpf::attached_devices(handle.as_fd()).map_err(Error::at("list the device programs of", &dir.path))?;
        // The new one first: in between both must agree, which is stricter, never laxer.
        bpf::attach_device(handle.as_fd(), program.as_fd())
            .map_err(Error::at("attach the device program to", &dir.path))?;
        for old in earlier {
            bpf::detach_device(handle.as_fd(), old.as_fd())
                .map_err(Error::at("detach a device program from", &dir.path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
