//! Edits → OCI specification.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use spec::runtime::{
    HookBuilder, Hooks, Linux, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, LinuxResources, Mount as OciMount, MountBuilder, Spec,
};

use super::file::{Edits, Hook, Mount, Node};
use crate::error::Error;

fn built<T>(what: &str, result: Result<T, impl std::fmt::Display>) -> Result<T, Error> {
    result.map_err(|e| Error::invalid(format!("CDI {what}: {e}")))
}

/// Changes `spec`.
pub(super) fn apply(spec: &mut Spec, edits: &Edits, owner: &dyn Fn(u32, u32) -> (u32, u32)) -> Result<(), Error> {
    if edits.intel_rdt.is_some() {
        return Err(Error::unimplemented("CDI intelRdt: this build sets no resctrl groups"));
    }
    if !edits.net_devices.is_empty() {
        return Err(Error::unimplemented(
            "CDI netDevices: this build moves no network devices",
        ));
    }
    process(spec, edits);
    for node in &edits.device_nodes {
        device(spec, node, owner)?;
    }
    for mount in &edits.mounts {
        let made = oci_mount(mount)?;
        let mut all = spec.mounts().clone().unwrap_or_default();
        all.retain(|other| other.destination() != made.destination());
        all.push(made);
        // By depth, so that nothing is hidden by what comes after it.
        all.sort_by_key(|mount| mount.destination().components().count());
        spec.set_mounts(Some(all));
    }
    edits.hooks.iter().try_for_each(|one| hook(spec, one))
}

/// Environment, a later value in the place of an earlier one, and groups.
fn process(spec: &mut Spec, edits: &Edits) {
    let Some(mut process) = spec.process().clone() else {
        return;
    };
    let mut env = process.env().clone().unwrap_or_default();
    for variable in &edits.env {
        let name = variable.split_once('=').map_or("", |(name, _)| name);
        env.retain(|other| other.split_once('=').is_none_or(|(known, _)| known != name));
        env.push(variable.clone());
    }
    process.set_env(Some(env));
    let mut user = process.user().clone();
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        if !groups.contains(gid) {
            groups.push(*gid);
        }
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
    spec.set_process(Some(process));
}

fn device(spec: &mut Spec, node: &Node, owner: &dyn Fn(u32, u32) -> (u32, u32)) -> Result<(), Error> {
    let process = spec
        .process()
        .as_ref()
        .map(|process| process.user().clone())
        .unwrap_or_default();
    // As the CDI library: a node that says nothing about its owner is the process's.
    let (uid, gid) = owner(node.uid.unwrap_or(process.uid()), node.gid.unwrap_or(process.gid()));
    let (kind, major, minor) = numbers(node)?;
    let mut builder = LinuxDeviceBuilder::default()
        .path(node.path.as_str())
        .typ(kind)
        .major(major)
        .minor(minor)
        .uid(uid)
        .gid(gid);
    if let Some(mode) = node.file_mode {
        builder = builder.file_mode(mode);
    }
    let made: LinuxDevice = built("device", builder.build())?;
    let mut linux: Linux = spec.linux().clone().unwrap_or_default();
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|other| other.path() != made.path());
    devices.push(made);
    linux.set_devices(Some(devices));
    if matches!(kind, LinuxDeviceType::B | LinuxDeviceType::C) {
        let mut resources: LinuxResources = linux.resources().clone().unwrap_or_default();
        let access = if node.permissions.is_empty() {
            "rwm"
        } else {
            &node.permissions
        };
        let rule: LinuxDeviceCgroup = built(
            "device rule",
            LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .typ(kind)
                .major(major)
                .minor(minor)
                .access(access)
                .build(),
        )?;
        let mut rules = resources.devices().clone().unwrap_or_default();
        rules.push(rule);
        resources.set_devices(Some(rules));
        linux.set_resources(Some(resources));
    }
    spec.set_linux(Some(linux));
    Ok(())
}

/// What the file says, or else what the host's node is.
fn numbers(node: &Node) -> Result<(LinuxDeviceType, i64, i64), Error> {
    let kind = |text: &str| match text {
        "b" => LinuxDeviceType::B,
        "p" => LinuxDeviceType::P,
        "u" => LinuxDeviceType::U,
        _ => LinuxDeviceType::C,
    };
    if node.kind == "p" {
        return Ok((LinuxDeviceType::P, 0, 0));
    }
    if let (false, Some(major)) = (node.kind.is_empty(), node.major.filter(|major| *major != 0)) {
        return Ok((kind(&node.kind), major, node.minor.unwrap_or(0)));
    }
    let path = if node.host_path.is_empty() {
        &node.path
    } else {
        &node.host_path
    };
    let found = fs::metadata(path).map_err(|e| Error::at("look at the CDI device", path, &e))?;
    let found_kind = match found.file_type() {
        kind if kind.is_block_device() => "b",
        kind if kind.is_char_device() => "c",
        kind if kind.is_fifo() => return Ok((LinuxDeviceType::P, 0, 0)),
        _ => return Err(Error::invalid(format!("CDI device {path} is no device node"))),
    };
    if !node.kind.is_empty() && kind(&node.kind) != kind(found_kind) && node.kind != "u" {
        return Err(Error::invalid(format!(
            "CDI device {path} is of type {found_kind}, not {} as its file says",
            node.kind
        )));
    }
    let number = found.rdev();
    Ok((
        kind(found_kind),
        i64::from(rustix::fs::major(number)),
        i64::from(rustix::fs::minor(number)),
    ))
}

fn oci_mount(mount: &Mount) -> Result<OciMount, Error> {
    let mut options = mount.options.clone();
    let bind = options.iter().any(|option| option == "bind" || option == "rbind");
    let kind = match mount.kind.as_str() {
        "" => "bind",
        kind => kind,
    };
    if kind == "bind" && !bind {
        options.push("rbind".to_owned());
    }
    let target = Path::new(&mount.container_path);
    built(
        "mount",
        MountBuilder::default()
            .destination(target)
            .typ(kind)
            .source(mount.host_path.as_str())
            .options(options)
            .build(),
    )
}

fn hook(spec: &mut Spec, hook: &Hook) -> Result<(), Error> {
    let mut builder = HookBuilder::default().path(hook.path.as_str());
    if !hook.args.is_empty() {
        builder = builder.args(hook.args.clone());
    }
    if !hook.env.is_empty() {
        builder = builder.env(hook.env.clone());
    }
    if let Some(timeout) = hook.timeout {
        builder = builder.timeout(timeout);
    }
    let made = built("hook", builder.build())?;
    let mut hooks: Hooks = spec.hooks().clone().unwrap_or_default();
    let list = match hook.hook_name.as_str() {
        "createRuntime" => hooks.create_runtime_mut(),
        "createContainer" => hooks.create_container_mut(),
        "startContainer" => hooks.start_container_mut(),
        "poststart" => hooks.poststart_mut(),
        "poststop" => hooks.poststop_mut(),
        _ => hooks.prestart_mut(),
    };
    list.get_or_insert_default().push(made);
    spec.set_hooks(Some(hooks));
    Ok(())
}
