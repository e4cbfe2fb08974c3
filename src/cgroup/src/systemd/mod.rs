//! The systemd driver, on cgroup v2: systemd is the one writer of its tree (systemd.io/CGROUP_DELEGATION), so it makes the
//! cgroups, as transient slices and scopes, and knows their limits, which a `daemon-reload` writes again.
//!
//! A path stays what it is elsewhere in this crate: `/kubepods.slice/kubepods-besteffort.slice/bulkhead-ID.scope` is
//! scope `bulkhead-ID.scope` in slice `kubepods-besteffort.slice`. A scope is delegated (`Delegate=yes`): what is below it
//! is ours, and processes enter it as under the other driver.
//!
//! * `wire`: D-Bus messages, as far as these calls need them; `bus`: the manager's private socket, no bus between;
//! * `unit`: names and paths, pure; `properties`: limits to properties, pure.
//!
//! Why no library: the first process of a container is made by the monitor's creator, in one thread of a static program
//! of 300 kB; there is no D-Bus library without an executor and its threads.

mod bus;
mod properties;
mod unit;
mod wire;

use std::time::{Duration, Instant};

use spec::runtime::LinuxResources;

use self::bus::Manager;
use self::properties::Property;
use self::unit::Unit;
pub use self::unit::slice_path;
use self::wire::Value;
use crate::{Cgroup, Error, Host, Version, file};

/// How long systemd may take to put a process where it belongs.
const LIMIT: Duration = Duration::from_secs(20);

/// Starts the scope that `path` names with `pid` in it, and waits until it is there. Limits are not set yet: as long as
/// `pid` is a stand-in, they would be too narrow for two.
///
/// # Errors
/// A path that names no scope, what systemd answered, or that it does not come to it.
pub fn start_scope(host: &Host, path: &str, pid: i32, description: &str) -> Result<Cgroup, Error> {
    let unit = unit(host, path, ".scope")?;
    let process = u32::try_from(pid).map_err(|_| Error::invalid("process", &pid.to_string(), "a pid is wanted"))?;
    let properties = [
        Property::new("Description", Value::Text(description.to_owned())),
        Property::new("Slice", Value::Text(unit.parent.clone())),
        Property::new("PIDs", Value::Numbers(vec![process])),
        Property::new("Delegate", Value::Bool(true)),
        // Containers are ended by the kubelet in its order, not by shutdown.target.
        Property::new("DefaultDependencies", Value::Bool(false)),
        // A scope that failed would keep its name taken.
        Property::new("CollectMode", Value::Text("inactive-or-failed".to_owned())),
        Property::new("MemoryAccounting", Value::Bool(true)),
        Property::new("CPUAccounting", Value::Bool(true)),
        Property::new("IOAccounting", Value::Bool(true)),
        Property::new("TasksAccounting", Value::Bool(true)),
        // Not systemd's default for scopes, but the kernel's: no limit that nobody asked for.
        Property::new("TasksMax", Value::Number(u64::MAX)),
    ];
    Manager::connect()?.start(&unit.name, &properties)?;
    let wanted = format!("0::{path}");
    let own = std::path::PathBuf::from(format!("/proc/{pid}/cgroup"));
    wait(path, || Ok(file::read(&own)?.lines().any(|line| line == wanted)))?;
    host.open(path)
}

/// Makes sure that the slice that `path` names is there.
///
/// # Errors
/// As [`start_scope`].
pub fn start_slice(host: &Host, path: &str) -> Result<Cgroup, Error> {
    let unit = unit(host, path, ".slice")?;
    if let Ok(group) = host.open(path) {
        return Ok(group);
    }
    let properties = [
        Property::new("Description", Value::Text("pod".to_owned())),
        Property::new("DefaultDependencies", Value::Bool(false)),
        Property::new("CollectMode", Value::Text("inactive-or-failed".to_owned())),
        Property::new("MemoryAccounting", Value::Bool(true)),
        Property::new("CPUAccounting", Value::Bool(true)),
        Property::new("IOAccounting", Value::Bool(true)),
        Property::new("TasksAccounting", Value::Bool(true)),
    ];
    match Manager::connect()?.start(&unit.name, &properties) {
        Err(error) if error.is_unit_there() => {}
        other => other?,
    }
    wait(path, || Ok(host.open(path).is_ok()))?;
    host.open(path)
}

/// Puts a process into the scope that `path` names, which is started where it is not there.
///
/// # Errors
/// As [`start_scope`].
pub fn enter_scope(host: &Host, path: &str, pid: i32, description: &str) -> Result<Cgroup, Error> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match start_scope(host, path, pid, description) {
            Err(error) if error.is_unit_there() => {}
            other => return other,
        }
        // Delegated: we may write there. It may be going just now, with its last process.
        match host.open(path).and_then(|group| group.join(pid).map(|()| group)) {
            Ok(group) => return Ok(group),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl Cgroup {
    /// As [`Cgroup::apply`], for a unit of systemd: it is told the limits that it has properties for, and the files get
    /// what properties cannot hold or round.
    ///
    /// # Errors
    /// As [`Cgroup::apply`], and what systemd answered.
    pub fn apply_by_systemd(&self, limits: &LinuxResources) -> Result<(), Error> {
        // First, so that a limit that cannot be had changes nothing.
        self.apply(limits)?;
        let properties = properties::of(limits)?;
        if properties.is_empty() {
            return Ok(());
        }
        let (name, _) = unit::split(self.path())?;
        Manager::connect()?.set(&name, &properties)?;
        // systemd has rounded the CPU quota to hundredths.
        self.apply(limits)
    }
}

/// Stops the unit that `path` names and waits until its cgroup is gone; one that is not there is fine.
///
/// # Errors
/// What systemd answered, or that it does not come to it.
pub fn stop(host: &Host, path: &str) -> Result<(), Error> {
    let (name, _) = unit::split(path)?;
    match Manager::connect()?.stop(&name) {
        Err(error) if error.is_unit_missing() => return Ok(()),
        other => other?,
    }
    wait(path, || Ok(host.open(path).is_err()))
}

fn unit(host: &Host, path: &str, ending: &'static str) -> Result<Unit, Error> {
    if host.version() != Version::V2 {
        return Err(Error::Missing {
            what: "the systemd driver",
            controller: "cgroup v2",
        });
    }
    let unit = Unit::of(path)?;
    if unit.name.ends_with(ending) {
        Ok(unit)
    } else {
        Err(Error::invalid("path", path, "a slice with a scope in it is wanted"))
    }
}

fn wait(path: &str, mut done: impl FnMut() -> Result<bool, Error>) -> Result<(), Error> {
    let deadline = Instant::now() + LIMIT;
    let mut pause = Duration::from_micros(200);
    while !done()? {
        if Instant::now() > deadline {
            return Err(Error::Systemd {
                op: "wait for",
                unit: path.to_owned(),
                name: "timeout".to_owned(),
                message: format!("not done after {} s", LIMIT.as_secs()),
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}
