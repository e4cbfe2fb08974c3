//! Delegation to the IPAM plugin that a configuration names.
//!
//! `ipam.type` is looked for in `CNI_PATH`, as any plugin. Where it is `host-local` and the file
//! found is this very program, the call is made in this process: one program less to start.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cni_types::{AddResult, Code, Error, name};
use serde_json::Value;

use crate::fault::{Fault, Result};
use crate::host_local;
use crate::skel::Call;

/// The IPAM plugin of `call`; none where the network has no addresses.
pub(crate) fn plugin(call: &Call) -> Result<Option<String>> {
    let Some(ipam) = call.conf.get("ipam").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let kind = ipam.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind.is_empty() {
        return if ipam.as_object().is_some_and(serde_json::Map::is_empty) {
            Ok(None)
        } else {
            Err(Fault::config("\"ipam\" has no \"type\""))
        };
    }
    name::plugin(kind).map_err(|error| Fault::config(format!("ipam: {error}")))?;
    Ok(Some(kind.to_owned()))
}

fn find(call: &Call, plugin: &str) -> Result<PathBuf> {
    for dir in &call.path {
        let path = dir.join(plugin);
        if std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0) {
            return Ok(path);
        }
    }
    let dirs: Vec<_> = call.path.iter().map(|dir| dir.display().to_string()).collect();
    Err(Fault::internal(format!(
        "IPAM plugin {plugin} is in none of [{}]",
        dirs.join(" ")
    )))
}

fn is_this_program(path: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    id(path).is_some_and(|found| id(Path::new("/proc/self/exe")) == Some(found))
}

enum Found {
    Here,
    Program(PathBuf),
}

fn locate(call: &Call, plugin: &str) -> Result<Found> {
    let path = find(call, plugin)?;
    Ok(if plugin == host_local::PLUGIN.name && is_this_program(&path) {
        Found::Here
    } else {
        Found::Program(path)
    })
}

fn execute(call: &Call, plugin: &str, path: &Path) -> Result<Vec<u8>> {
    let failed = |op: &'static str| Fault::file::<std::io::Error>(op, path);
    let mut child = Command::new(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .env("CNI_COMMAND", &call.command)
        .spawn()
        .map_err(failed("execute"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let conf = Value::Object(call.conf.clone()).to_string();
        match stdin.write_all(conf.as_bytes()) {
            // It may answer without reading.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(failed("write to")(error)),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(failed("read from"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    match Error::parse(&output.stdout) {
        Some(error) => Err(Fault::Cni(Error {
            msg: format!("IPAM plugin {plugin}: {}", error.msg),
            ..error
        })),
        None => {
            let printed = String::from_utf8_lossy(&output.stdout)
                .chars()
                .take(300)
                .collect::<String>();
            let text = format!("IPAM plugin {plugin}: {}, printed {printed:?}", output.status);
            Err(Fault::new(Code::Internal, text))
        }
    }
}

/// Asks for addresses.
pub(crate) fn add(call: &Call, plugin: &str) -> Result<AddResult> {
    match locate(call, plugin)? {
        // The interface is made before the address is asked for, so that a second ADD of the
        // same container ends there and need not be searched for in the store.
        Found::Here => host_local::allocate(call, host_local::Duplicates::Excluded),
        Found::Program(path) => Ok(AddResult::parse(&execute(call, plugin, &path)?, call.version)?),
    }
}

/// Gives addresses back; none held is fine. Runs DEL whatever the verb of `call` is.
pub(crate) fn del(call: &Call, plugin: &str) -> Result<()> {
    match locate(call, plugin)? {
        Found::Here => host_local::release(call),
        Found::Program(path) => {
            if call.command == "DEL" {
                return execute(call, plugin, &path).map(drop);
            }
            let undo = Call {
                command: "DEL".to_owned(),
                container_id: call.container_id.clone(),
                netns: call.netns.clone(),
                ifname: call.ifname.clone(),
                args: call.args.clone(),
                path: call.path.clone(),
                network: call.network.clone(),
                version: call.version,
                conf: call.conf.clone(),
            };
            execute(&undo, plugin, &path).map(drop)
        }
    }
}

/// Passes CHECK, GC or STATUS on.
pub(crate) fn forward(call: &Call, plugin: &str) -> Result<()> {
    match locate(call, plugin)? {
        Found::Here => {
            let ours = &host_local::PLUGIN;
            match call.command.as_str() {
                "CHECK" => (ours.check)(call),
                "GC" => (ours.gc)(call),
                _ => (ours.status)(call),
            }
        }
        Found::Program(path) => execute(call, plugin, &path).map(drop),
    }
}
