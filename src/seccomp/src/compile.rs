//! A profile to a program: which decision for each number of each ABI, then `emit`.

use std::collections::{BTreeMap, BTreeSet};

use spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use sys::seccomp::SockFilter;

use crate::arch::{self, Abi, X32_BIT};
use crate::emit::{self, Condition, Decision, Test};
use crate::error::Error;

// include/uapi/linux/seccomp.h
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_WAIT_KILLABLE: u32 = 1 << 5;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const LARGEST_ERRNO: u32 = 4095;
const MAX_INSTRUCTIONS: usize = 4096; // BPF_MAXINSNS

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The instructions.
    pub filter: Vec<SockFilter>,
    /// Flags of seccomp(2), `NEW_LISTENER` among them where `notify`.
    pub flags: u32,
    /// Whether loading it answers with a notification descriptor.
    pub notify: bool,
    /// Names in the profile that no architecture here knows, for the log.
    pub ignored: Vec<String>,
}

/// Compiles a profile.
///
/// # Errors
/// A profile that means nothing the kernel could do; see [`Error`].
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    let notify = check_notify(profile, rules)?;
    let mut abis = vec![Abi::NATIVE];
    for abi in profile
        .architectures()
        .iter()
        .flatten()
        .filter_map(|arch| Abi::of(*arch))
    {
        if !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    let mut filter = vec![emit::load_arch()];
    let audits: BTreeSet<u32> = abis.iter().map(|abi| abi.audit()).collect();
    // The native architecture is asked for first.
    let mut audits: Vec<u32> = audits.into_iter().collect();
    audits.sort_by_key(|audit| *audit != Abi::NATIVE.audit());
    for audit in audits {
        let mut ranges = Vec::new();
        for abi in abis.iter().filter(|abi| abi.audit() == audit) {
            ranges.extend(ranges_of(*abi, rules, default)?);
        }
        ranges.sort_by_key(|(first, _)| *first);
        if audit == Abi::X86_64.audit() {
            bound_x32(&abis, default, &mut ranges);
        }
        let mut body = vec![emit::load_number()];
        body.extend(emit::search(&merge(ranges)));
        filter.extend(emit::when_equal(audit, body));
    }
    filter.push(emit::ret(KILL_PROCESS));
    if filter.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLarge(filter.len()));
    }
    let unknown: BTreeSet<&String> = rules
        .iter()
        .flat_map(LinuxSyscall::names)
        .filter(|name| !arch::is_known(name))
        .collect();
    Ok(Program {
        filter,
        flags: flags(profile, notify),
        notify,
        ignored: unknown.into_iter().cloned().collect(),
    })
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, Error> {
    let data = errno.unwrap_or(EPERM);
    if data > LARGEST_ERRNO {
        return Err(Error::Errno(data));
    }
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | data,
        LinuxSeccompAction::ScmpActTrace => TRACE | data,
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
    })
}

/// Notification needs somebody to notify, and calls that the start of a container itself makes after the filter is in
/// must not wait for an answer.
fn check_notify(profile: &LinuxSeccomp, rules: &[LinuxSyscall]) -> Result<bool, Error> {
    let notifies = |rule: &&LinuxSyscall| rule.action() == LinuxSeccompAction::ScmpActNotify;
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(Error::Notify("cannot be the default action"));
    }
    if rules
        .iter()
        .filter(notifies)
        .any(|rule| rule.names().iter().any(|name| name == "write"))
    {
        return Err(Error::Notify("cannot be used for write"));
    }
    let notify = rules.iter().any(|rule| notifies(&rule));
    if notify && profile.listener_path().is_none() {
        return Err(Error::Notify("needs a listenerPath"));
    }
    Ok(notify)
}

fn flags(profile: &LinuxSeccomp, notify: bool) -> u32 {
    let given = profile.flags().iter().flatten().map(|flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notify => FLAG_WAIT_KILLABLE,
        // The process that loads the filter has one thread: nothing to synchronise, and with a listener the kernel
        // refuses the pair. WAIT_KILLABLE without a listener is EINVAL.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    });
    given.fold(if notify { FLAG_NEW_LISTENER } else { 0 }, |all, one| all | one)
}

/// What the profile says about one call, being collected.
#[derive(Default)]
struct Verdict {
    rules: Vec<(Vec<Condition>, u32)>,
    always: Option<u32>,
}

/// First numbers with their decisions, from the ABI's lowest number up.
fn ranges_of(abi: Abi, rules: &[LinuxSyscall], default: u32) -> Result<Vec<(u32, Decision)>, Error> {
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for rule in rules {
        let answer = action(rule.action(), rule.errno_ret())?;
        let args = rule.args().as_deref().unwrap_or_default();
        for name in rule.names() {
            let Some(number) = abi.number(name) else { continue };
            let verdict = verdicts.entry(number).or_default();
            if args.is_empty() {
                verdict.always = Some(verdict.always.map_or(answer, |other| stricter(answer, other)));
            } else {
                let conditions = args
                    .iter()
                    .map(|arg| condition(abi, name, arg))
                    .collect::<Result<_, _>>()?;
                verdict.rules.push((conditions, answer));
            }
        }
    }
    let base = if abi == Abi::X32 { X32_BIT } else { 0 };
    let mut ranges = vec![(base, Decision::Always(default))];
    let newest = verdicts.last_key_value().map(|(number, _)| *number);
    for (number, verdict) in verdicts {
        let otherwise = verdict.always.unwrap_or(default);
        let decision = if verdict.rules.is_empty() {
            Decision::Always(otherwise)
        } else {
            Decision::Ask {
                rules: verdict.rules,
                otherwise,
            }
        };
        ranges.push((number, decision));
        ranges.push((number + 1, Decision::Always(default)));
    }
    if let Some(newest) = newest.filter(|_| default & 0xffff_0000 == ERRNO) {
        ranges.push((newest + 1, Decision::Always(ERRNO | ENOSYS)));
    }
    Ok(ranges)
}

/// What lies above the x86_64 numbers: x32, allowed or not, and -1, which a tracer writes to skip a call.
fn bound_x32(abis: &[Abi], default: u32, ranges: &mut Vec<(u32, Decision)>) {
    if !abis.contains(&Abi::X86_64) {
        ranges.push((0, Decision::Always(KILL_PROCESS)));
    }
    if !abis.contains(&Abi::X32) {
        ranges.push((X32_BIT, Decision::Always(KILL_PROCESS)));
    }
    ranges.push((u32::MAX, Decision::Always(default)));
    ranges.sort_by_key(|(first, _)| *first);
}

/// Of several entries for one first number the last counts; neighbours that answer alike become one.
fn merge(ranges: Vec<(u32, Decision)>) -> Vec<(u32, Decision)> {
    let mut merged: Vec<(u32, Decision)> = Vec::with_capacity(ranges.len());
    for (first, decision) in ranges {
        if merged.last().is_some_and(|(last, _)| *last == first) {
            merged.pop();
        }
        if merged.last().is_none_or(|(_, last)| *last != decision) {
            merged.push((first, decision));
        }
    }
    merged
}

/// The kernel's own order (seccomp(2)): as signed numbers, the lower wins.
fn stricter(a: u32, b: u32) -> u32 {
    if (a & 0xffff_0000).cast_signed() <= (b & 0xffff_0000).cast_signed() {
        a
    } else {
        b
    }
}

fn condition(abi: Abi, name: &str, arg: &LinuxSeccompArg) -> Result<Condition, Error> {
    let index = u32::try_from(arg.index()).ok().filter(|index| *index <= 5);
    let index = index.ok_or_else(|| Error::Argument {
        syscall: name.to_owned(),
        index: arg.index(),
    })?;
    let (value, second) = (arg.value(), arg.value_two().unwrap_or(0));
    let test = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Test::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Test::LessEqual(value),
        LinuxSeccompOperator::ScmpCmpEq => Test::Equal(value),
        LinuxSeccompOperator::ScmpCmpGe => Test::GreaterEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => Test::Greater(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => Test::Masked {
            mask: value,
            value: second,
        },
    };
    // A value that has high bits of its own (but for a sign) was not meant for a 32-bit argument: left as it is.
    let fits = |value: u64| value >> 32 == 0 || value >> 31 == 0x1_ffff_ffff;
    let is_32_bit = abi.is_32_bit(name, arg.index()) && fits(value) && fits(second);
    Ok(Condition { index, is_32_bit, test })
}

#[cfg(test)]
mod tests;
