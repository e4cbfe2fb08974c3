//! The cgroup: its path and its limits, with the device rules that every container needs.

use std::path::{Component, Path};

use spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use crate::Error;

/// Devices every container may use; without them a list would close even `/dev/null`. `(type, major, minor, access)`,
/// -1 is any. Making nodes is harmless while opening them is not allowed.
const DEFAULT: [(LinuxDeviceType, i64, i64, &str); 11] = [
    (LinuxDeviceType::C, -1, -1, "m"),
    (LinuxDeviceType::B, -1, -1, "m"),
    (LinuxDeviceType::C, 1, 3, "rwm"),    // null
    (LinuxDeviceType::C, 1, 5, "rwm"),    // zero
    (LinuxDeviceType::C, 1, 7, "rwm"),    // full
    (LinuxDeviceType::C, 1, 8, "rwm"),    // random
    (LinuxDeviceType::C, 1, 9, "rwm"),    // urandom
    (LinuxDeviceType::C, 5, 0, "rwm"),    // tty
    (LinuxDeviceType::C, 5, 1, "rwm"),    // console
    (LinuxDeviceType::C, 5, 2, "rwm"),    // ptmx
    (LinuxDeviceType::C, 136, -1, "rwm"), // pts
];

/// The limits of the spec; the device list starts closed (an absent one too, GHSA-g54h-m393-cpwq), then says what
/// the spec says, then opens the default devices.
pub(super) fn plan(given: Option<&LinuxResources>) -> LinuxResources {
    let mut resources = given.cloned().unwrap_or_default();
    let closed = rule(false, LinuxDeviceType::A, -1, -1, "rwm");
    let given = resources.devices().clone().unwrap_or_default();
    let defaults = DEFAULT
        .iter()
        .map(|(typ, major, minor, access)| rule(true, *typ, *major, *minor, access));
    resources.set_devices(Some([closed].into_iter().chain(given).chain(defaults).collect()));
    resources
}

fn rule(allow: bool, typ: LinuxDeviceType, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(typ))
        .set_major(Some(major).filter(|n| *n >= 0));
    rule.set_minor(Some(minor).filter(|n| *n >= 0))
        .set_access(Some(access.to_owned()));
    rule
}

/// The container's cgroup: absolute, without `..`; `/bulkhead/<id>` where the spec says nothing.
pub(super) fn cgroup_path(id: &str, path: Option<&Path>) -> Result<String, Error> {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(format!("/bulkhead/{id}"));
    };
    let normal = path
        .components()
        .skip(1)
        .all(|part| matches!(part, Component::Normal(_)));
    match path.to_str() {
        Some(text) if path.is_absolute() && normal && path.file_name().is_some() => Ok(text.to_owned()),
        _ => Err(Error::invalid(
            "linux.cgroupsPath",
            format!("{path:?} is not an absolute path without \"..\""),
        )),
    }
}
