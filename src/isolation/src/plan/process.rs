//! The process: program, environment, identity, capabilities, limits. Used by create and by exec.

use std::path::PathBuf;

use rustix::process::Resource;
use spec::runtime::{
    Capabilities, IOPriorityClass, LinuxCapabilities, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, PosixRlimit, Scheduler,
};
use sys::cap::Caps;
use sys::rlimit::Limit;
use sys::sched::SchedAttr;

use super::Facts;
use super::label::{self, Labels};
use super::userns::User;
use crate::Error;
use crate::sync::MAX_GROUPS;

/// The five sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CapPlan {
    pub(crate) bounding: Caps,
    pub(crate) effective: Caps,
    pub(crate) permitted: Caps,
    pub(crate) inheritable: Caps,
    pub(crate) ambient: Caps,
}

/// What the new process becomes.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) terminal: bool,
    /// Columns and rows.
    pub(crate) size: Option<(u16, u16)>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) caps: CapPlan,
    pub(crate) limits: Vec<(Resource, Limit)>,
    pub(crate) no_new_privs: bool,
    pub(crate) oom_score_adj: Option<i32>,
    /// Class and level.
    pub(crate) io_priority: Option<(u16, u16)>,
    pub(crate) scheduler: Option<SchedAttr>,
    pub(crate) labels: Labels,
}

impl Process {
    /// Its ids exist in the user namespace.
    pub(crate) fn check_mapped(&self, user: Option<&User>) -> Result<(), Error> {
        let Some(User { maps, .. }) = user else { return Ok(()) };
        let missing = |field: &str, id: u32| {
            Err(Error::invalid(
                field,
                format!("{id} is not mapped in the user namespace"),
            ))
        };
        if maps.host_uid(self.uid).is_none() {
            return missing("process.user.uid", self.uid);
        }
        let mut groups = [self.gid].into_iter().chain(self.groups.iter().copied());
        groups
            .find(|gid| maps.host_gid(*gid).is_none())
            .map_or(Ok(()), |gid| missing("process.user.gid", gid))
    }
}

/// `needs_program` is false for the built-in reaper.
pub(crate) fn plan(
    process: &spec::runtime::Process,
    facts: &Facts<'_>,
    needs_program: bool,
    clamped: &mut Vec<String>,
) -> Result<Process, Error> {
    supported(process)?;
    let args = process.args().clone().unwrap_or_default();
    if needs_program && args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("process.args", "no program is named"));
    }
    let env = process.env().clone().unwrap_or_default();
    for (field, list) in [("process.args", &args), ("process.env", &env)] {
        if list.iter().any(|text| text.contains('\0')) {
            return Err(Error::invalid(field, "holds a NUL byte"));
        }
    }
    let cwd = process.cwd().clone();
    if !cwd.is_absolute() || sys::path::has_nul(&cwd) {
        return Err(Error::invalid(
            "process.cwd",
            format!("{cwd:?} is not an absolute path"),
        ));
    }
    let user = process.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    for (field, id) in [("process.user.uid", user.uid()), ("process.user.gid", user.gid())]
        .into_iter()
        .chain(groups.iter().map(|gid| ("process.user.additionalGids", *gid)))
    {
        if id == sys::cred::NOBODY_AT_ALL {
            return Err(Error::invalid(field, format!("{id} is no id")));
        }
    }
    if groups.len() > MAX_GROUPS {
        return Err(Error::invalid(
            "process.user.additionalGids",
            format!("more than {MAX_GROUPS}"),
        ));
    }
    let umask = user.umask().unwrap_or(0o022);
    if umask > 0o777 {
        return Err(Error::invalid(
            "process.user.umask",
            format!("{umask:#o} is above 0777"),
        ));
    }
    Ok(Process {
        args,
        env,
        cwd,
        terminal: process.terminal().unwrap_or(false),
        size: size(process)?,
        uid: user.uid(),
        gid: user.gid(),
        groups,
        umask,
        caps: caps(process.capabilities().as_ref(), facts, clamped)?,
        limits: limits(process.rlimits().as_deref().unwrap_or_default(), facts, clamped)?,
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: oom_score_adj(process.oom_score_adj(), facts, clamped)?,
        io_priority: io_priority(process)?,
        scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
        labels: label::plan(process, facts)?,
    })
}

fn supported(process: &spec::runtime::Process) -> Result<(), Error> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if given(process.command_line()) {
        return Err(Error::unsupported("process.commandLine", "is for Windows"));
    }
    if process.exec_cpu_affinity().is_some() {
        return Err(Error::unsupported("process.execCPUAffinity", "is not supported yet"));
    }
    if given(process.user().username()) {
        return Err(Error::unsupported("process.user.username", "is for Windows"));
    }
    Ok(())
}

fn size(process: &spec::runtime::Process) -> Result<Option<(u16, u16)>, Error> {
    let Some(size) = process.console_size() else {
        return Ok(None);
    };
    match (u16::try_from(size.width()), u16::try_from(size.height())) {
        (Ok(0), Ok(0)) => Ok(None),
        (Ok(width), Ok(height)) => Ok(Some((width, height))),
        _ => Err(Error::invalid("process.consoleSize", "is above 65535")),
    }
}

fn caps(given: Option<&LinuxCapabilities>, facts: &Facts<'_>, clamped: &mut Vec<String>) -> Result<CapPlan, Error> {
    // None named: none had.
    let Some(given) = given else {
        return Ok(CapPlan::default());
    };
    let bounding = set(given.bounding().as_ref())?;
    let permitted = set(given.permitted().as_ref())?;
    let wanted = CapPlan {
        bounding,
        permitted,
        effective: set(given.effective().as_ref())?,
        inheritable: set(given.inheritable().as_ref())?,
        ambient: set(given.ambient().as_ref())?,
    };
    for (name, caps) in [("effective", wanted.effective), ("ambient", wanted.ambient)] {
        let beyond = caps.minus(permitted);
        if !beyond.is_empty() {
            let why = format!("{beyond:?} not in the permitted set");
            return Err(Error::invalid(format!("process.capabilities.{name}"), why));
        }
    }
    let all = bounding.union(permitted).union(wanted.inheritable);
    for name in all.minus(facts.caps).names() {
        clamped.push(format!("{name} is not granted: this host withholds it"));
    }
    let keep = |caps: Caps| caps.intersection(facts.caps);
    Ok(CapPlan {
        bounding: keep(wanted.bounding),
        effective: keep(wanted.effective),
        permitted: keep(wanted.permitted),
        inheritable: keep(wanted.inheritable),
        // The kernel raises only what is also inheritable; runc drops the rest in silence, and so do we.
        ambient: keep(wanted.ambient).intersection(wanted.inheritable),
    })
}

fn set(given: Option<&Capabilities>) -> Result<Caps, Error> {
    let mut caps = Caps::default();
    for name in given.into_iter().flatten().map(ToString::to_string) {
        let one = Caps::named(&name)
            .ok_or_else(|| Error::invalid("process.capabilities", format!("{name:?} is no capability")))?;
        caps = caps.union(one);
    }
    Ok(caps)
}

fn limits(
    given: &[PosixRlimit],
    facts: &Facts<'_>,
    clamped: &mut Vec<String>,
) -> Result<Vec<(Resource, Limit)>, Error> {
    let mut out: Vec<(Resource, Limit)> = Vec::new();
    for limit in given {
        let name = limit.typ().to_string();
        let resource = sys::rlimit::named(&name)
            .ok_or_else(|| Error::invalid("process.rlimits", format!("{name:?} is no limit")))?;
        if out.iter().any(|(other, _)| *other as u32 == resource as u32) {
            return Err(Error::invalid("process.rlimits", format!("{name} is there twice")));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::invalid("process.rlimits", format!("{name}: soft is above hard")));
        }
        let have = if facts.may_raise_limits {
            None
        } else {
            (facts.hard_limit)(resource)
        };
        let most = have.unwrap_or(u64::MAX);
        if limit.hard() > most {
            let hard = limit.hard();
            clamped.push(format!(
                "{name} {hard} is lowered to {most}: this host withholds CAP_SYS_RESOURCE"
            ));
        }
        let value = |wanted: u64| Some(wanted.min(most)).filter(|value| *value != u64::MAX);
        out.push((
            resource,
            Limit {
                soft: value(limit.soft()),
                hard: value(limit.hard()),
            },
        ));
    }
    Ok(out)
}

fn oom_score_adj(given: Option<i32>, facts: &Facts<'_>, clamped: &mut Vec<String>) -> Result<Option<i32>, Error> {
    let Some(given) = given else { return Ok(None) };
    if !(-1000..=1000).contains(&given) {
        return Err(Error::invalid(
            "process.oomScoreAdj",
            format!("{given} is not from -1000 to 1000"),
        ));
    }
    if given >= facts.oom_score_adj {
        return Ok(Some(given));
    }
    let lowest = facts.oom_score_adj;
    clamped.push(format!(
        "oom_score_adj {given} is raised to {lowest}: this host withholds CAP_SYS_RESOURCE"
    ));
    Ok(Some(lowest))
}

fn io_priority(process: &spec::runtime::Process) -> Result<Option<(u16, u16)>, Error> {
    let Some(given) = process.io_priority() else {
        return Ok(None);
    };
    let class = match given.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(given.priority()) {
        Ok(level @ 0..=7) => Ok(Some((class, level))),
        _ => Err(Error::invalid(
            "process.ioPriority.priority",
            format!("{} is not from 0 to 7", given.priority()),
        )),
    }
}

fn scheduler(given: &Scheduler) -> Result<SchedAttr, Error> {
    let invalid = |why: &str| Error::invalid("process.scheduler", why);
    let policy = match given.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => return Err(invalid("SCHED_ISO does not exist in Linux")),
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let mut flags = 0;
    for flag in given.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
    }
    let nice = given.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(invalid("nice is not from -20 to 19"));
    }
    Ok(SchedAttr {
        size: 0,
        policy,
        flags,
        nice,
        priority: u32::try_from(given.priority().unwrap_or(0)).map_err(|_| invalid("priority is negative"))?,
        runtime: given.runtime().unwrap_or(0),
        deadline: given.deadline().unwrap_or(0),
        period: given.period().unwrap_or(0),
    })
}

/// The word for personality(2).
pub(super) fn personality(given: Option<&LinuxPersonality>) -> Result<Option<u64>, Error> {
    let Some(given) = given else { return Ok(None) };
    if given.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Error::unsupported(
            "linux.personality.flags",
            "are not defined by the spec",
        ));
    }
    Ok(Some(match given.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}
