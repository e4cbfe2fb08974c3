//! OCI limits to control files.
//!
//! `plan` is pure: limits and the shape of the host in, an ordered list of writes out. One file a resource, each with
//! its v1 and v2 spelling. What the host cannot hold is either named in `Plan::skipped` (where the peers tolerate it
//! too: swap without accounting, huge pages without their controller) or an error (everything else).
//!
//! Order matters: memory before memory+swap when both are made smaller or set for the first time, the other way round
//! when they grow; cpuset and memory before cpu, so that a resize that fails has changed the harmless part only.

mod blkio;
mod cpu;
mod devices;
mod hugetlb;
mod memory;
mod pids;

use std::collections::BTreeSet;
use std::path::PathBuf;

use spec::runtime::LinuxResources;

use crate::{Cgroup, Error, Version, file};

/// Where a controller lives on this host.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Layout<'a> {
    dirs: &'a [crate::fs::Dir],
}

impl Layout<'_> {
    fn version(&self, controller: &str) -> Option<Version> {
        self.dirs
            .iter()
            .find(|dir| dir.controllers.iter().any(|own| own == controller))
            .map(|dir| dir.version)
    }

    fn need(&self, what: &'static str, controller: &'static str) -> Result<Version, Error> {
        self.version(controller).ok_or(Error::Missing { what, controller })
    }
}

/// What the cgroup holds now, as far as the order of writes depends on it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Current {
    /// v1: memory+swap limit.
    memory_and_swap: Option<u64>,
}

/// One control file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    controller: &'static str,
    file: String,
    value: String,
    when: When,
}

/// What a write that fails means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// It is an error.
    Must,
    /// EINVAL: try again after the others (period and quota depend on one another).
    Again,
    /// A file that this kernel does not have is named as skipped.
    IfPresent,
}

impl Write {
    fn must(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Self {
        Self {
            controller,
            file: file.into(),
            value: value.to_string(),
            when: When::Must,
        }
    }

    fn again(self) -> Self {
        Self {
            when: When::Again,
            ..self
        }
    }

    fn if_present(self) -> Self {
        Self {
            when: When::IfPresent,
            ..self
        }
    }

    /// It may be refused until another one is in.
    pub(crate) fn may_wait(&self) -> bool {
        self.when == When::Again
    }

    /// Its file may be missing.
    pub(crate) fn may_be_absent(&self) -> bool {
        self.when == When::IfPresent
    }
}

/// The kernel refuses the value as things are now.
pub(crate) fn refused_for_now(error: &Error) -> bool {
    errno(error) == Some(rustix::io::Errno::INVAL.raw_os_error())
}

/// The kernel could not make the memory in use fit (v1).
pub(crate) fn is_below_usage(error: &Error) -> bool {
    let memory = matches!(error, Error::Write { path, .. } if path.ends_with("memory.limit_in_bytes"));
    memory && errno(error) == Some(rustix::io::Errno::BUSY.raw_os_error())
}

fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::Write { source, .. } => source.raw_os_error(),
        _ => None,
    }
}

/// v1 shares for a v2 weight: the smallest that `cpu::weight` turns into it.
pub(crate) fn shares(weight: u64) -> u64 {
    let (mut low, mut high) = (2, 262_144);
    while low < high {
        let middle = (low + high) / 2;
        if cpu::weight(middle) < weight {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The writes for a set of limits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) writes: Vec<Write>,
    devices: Option<devices::Rules>,
    /// v2: the memory limit, refused below what is in use.
    pub(crate) memory_floor: Option<u64>,
    skipped: Vec<String>,
}

fn plan(limits: &LinuxResources, layout: Layout<'_>, current: Current) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    if let Some(rules) = limits.devices() {
        plan.devices = Some(devices::Rules::parse(rules)?);
    }
    if let Some(cpu) = limits.cpu() {
        cpu::sets(cpu, layout, &mut plan)?;
    }
    if let Some(memory) = limits.memory() {
        memory::plan(memory, layout, current, &mut plan)?;
    }
    if let Some(cpu) = limits.cpu() {
        cpu::time(cpu, layout, &mut plan)?;
    }
    if let Some(pids) = limits.pids() {
        pids::plan(pids.limit(), layout, &mut plan)?;
    }
    if let Some(pages) = limits.hugepage_limits() {
        hugetlb::plan(pages, layout, &mut plan)?;
    }
    if let Some(io) = limits.block_io() {
        blkio::plan(io, layout, &mut plan)?;
    }
    if let Some(rdma) = limits.rdma() {
        hugetlb::rdma(rdma, layout, &mut plan)?;
    }
    if limits.network().is_some() {
        plan.skipped
            .push("network class and priorities: net_cls and net_prio are left alone".to_owned());
    }
    if let Some(unified) = limits.unified() {
        self::unified(unified, layout, &mut plan)?;
    }
    Ok(plan)
}

/// Raw v2 files. They come last, so that they win over the fields above, as the runtime spec has it.
fn unified(
    files: &std::collections::HashMap<String, String>,
    layout: Layout<'_>,
    plan: &mut Plan,
) -> Result<(), Error> {
    let names: BTreeSet<&String> = files.keys().collect();
    for name in names {
        if name.contains('/') || name.starts_with('.') {
            return Err(Error::invalid("unified", name, "the name of a control file is wanted"));
        }
        if name.starts_with("cgroup.") {
            return Err(Error::invalid(
                "unified",
                name,
                "a limit is wanted, not a file that runs the cgroup itself",
            ));
        }
        let prefix = name.split('.').next().unwrap_or_default();
        let known = crate::host::WANTED.into_iter().find(|controller| *controller == prefix);
        match known.map(|controller| (controller, layout.version(controller))) {
            Some((controller, Some(Version::V2))) => {
                plan.writes.push(Write::must(controller, name.as_str(), &files[name]))
            }
            _ => {
                return Err(Error::Missing {
                    what: "unified",
                    controller: known.unwrap_or("cgroup v2"),
                });
            }
        }
    }
    Ok(())
}

/// The control files and values that `limits` come to on this host, before any is written.
#[cfg(feature = "systemd")]
pub(crate) fn files(host: &crate::Host, limits: &LinuxResources) -> Result<Vec<(String, String)>, Error> {
    let anywhere = host.at("/");
    let plan = plan(limits, Layout { dirs: &anywhere.dirs }, Current::default())?;
    Ok(plan.writes.into_iter().map(|write| (write.file, write.value)).collect())
}

impl Cgroup {
    /// Writes limits, in the order that lets each one in. Device rules, where given, replace all earlier ones: what no
    /// rule allows is denied. Limits that are absent stay as they are.
    ///
    /// # Errors
    /// A value that no kernel takes, a controller that this host lacks, a memory limit below usage.
    pub fn apply(&self, limits: &LinuxResources) -> Result<(), Error> {
        let plan = self.planned(limits)?;
        if let Some(limit) = plan.memory_floor {
            self.check_usage(limit)?;
        }
        if let Some(rules) = &plan.devices {
            self.apply_devices(rules)?;
        }
        let mut again = Vec::new();
        for write in &plan.writes {
            match self.put(write) {
                Err(error) if write.may_wait() && refused_for_now(&error) => again.push(write),
                Err(error) if write.may_be_absent() && error.is_missing_file() => {}
                result => result?,
            }
        }
        again.into_iter().try_for_each(|write| self.put(write))
    }

    /// What of these limits this host cannot hold and will be left out, for the log; known before anything is done.
    ///
    /// # Errors
    /// As [`Cgroup::apply`], as far as it can be told without writing.
    pub fn unsupported(&self, limits: &LinuxResources) -> Result<Vec<String>, Error> {
        let plan = plan(limits, Layout { dirs: &self.dirs }, Current::default())?;
        let absent = plan
            .writes
            .iter()
            .filter(|write| write.when == When::IfPresent)
            .filter_map(|write| {
                let dir = self.dir(write.controller)?;
                let there = dir.path.join(&write.file).exists();
                (!there).then(|| format!("{}: this kernel has no {}", write.controller, write.file))
            });
        Ok(plan.skipped.iter().cloned().chain(absent).collect())
    }

    pub(crate) fn planned(&self, limits: &LinuxResources) -> Result<Plan, Error> {
        plan(limits, Layout { dirs: &self.dirs }, self.current(limits))
    }

    pub(crate) fn path_of(&self, write: &Write) -> Result<PathBuf, Error> {
        let dir = self.dir(write.controller).ok_or(Error::Missing {
            what: "a limit",
            controller: write.controller,
        })?;
        Ok(dir.path.join(&write.file))
    }

    pub(crate) fn put(&self, write: &Write) -> Result<(), Error> {
        file::write(&self.path_of(write)?, &write.value)
    }

    fn current(&self, limits: &LinuxResources) -> Current {
        let swap_asked = limits.memory().as_ref().is_some_and(|memory| memory.swap().is_some());
        let dir = self
            .dir("memory")
            .filter(|dir| swap_asked && dir.version == Version::V1);
        let path = dir.map(|dir| dir.path.join("memory.memsw.limit_in_bytes"));
        // Without swap accounting there is no file and no order to keep.
        Current {
            memory_and_swap: path.and_then(|path| file::read_number(&path).ok().flatten()),
        }
    }

    /// v2 kills what does not fit under a new `memory.max`; a resize must fail instead.
    pub(crate) fn check_usage(&self, limit: u64) -> Result<(), Error> {
        let Some(dir) = self.dir("memory") else { return Ok(()) };
        let usage = file::read_number(&dir.path.join("memory.current"))?.unwrap_or(0);
        if usage > limit {
            Err(Error::BelowUsage {
                path: self.path().to_owned(),
                limit,
                usage,
            })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
