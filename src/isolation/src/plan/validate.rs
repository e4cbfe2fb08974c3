//! What this build does not do yet is refused by name; small fields that need no file of their own.

use std::path::PathBuf;

use spec::runtime::Spec;
use sys::mount::Propagation;

use super::namespaces::Namespaces;
use crate::Error;
use crate::init::reaper;

const NOT_YET: &str = "is not supported yet";

/// Refuses every field that nothing here reads.
pub(super) fn supported(spec: &Spec) -> Result<(), Error> {
    let refuse = |present: bool, field: &str, why: &str| {
        if present {
            Err(Error::unsupported(field, why))
        } else {
            Ok(())
        }
    };
    if !spec.version().starts_with("1.") {
        return Err(Error::invalid("ociVersion", format!("{:?} is not 1.x", spec.version())));
    }
    refuse(spec.solaris().is_some(), "solaris", "this is Linux")?;
    refuse(spec.windows().is_some(), "windows", "this is Linux")?;
    refuse(spec.vm().is_some(), "vm", "virtual machines are another runtime's")?;
    refuse(spec.zos().is_some(), "zos", "this is Linux")?;
    refuse(some(spec.uid_mappings()), "uidMappings", NOT_YET)?;
    refuse(some(spec.gid_mappings()), "gidMappings", NOT_YET)?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    let net_devices = linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty());
    refuse(net_devices, "linux.netDevices", NOT_YET)?;
    refuse(linux.intel_rdt().is_some(), "linux.intelRdt", NOT_YET)?;
    refuse(linux.memory_policy().is_some(), "linux.memoryPolicy", NOT_YET)
}

fn some<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

/// Whether the built-in reaper is asked for.
pub(super) fn reaper(spec: &Spec) -> Result<bool, Error> {
    match spec
        .annotations()
        .as_ref()
        .and_then(|all| all.get(reaper::ANNOTATION))
        .map(String::as_str)
    {
        None => Ok(false),
        Some(reaper::VALUE) => Ok(true),
        Some(other) => Err(Error::invalid(
            format!("annotations[{:?}]", reaper::ANNOTATION),
            format!("{other:?} is not {:?}", reaper::VALUE),
        )),
    }
}

/// Says that the session keyring is the caller's: in the specification, because exec reads it there too.
const KEYRING: &str = "io.bulkhead.keyring";
const INHERITED: &str = "inherited";

/// Whether the container has a session keyring of its own.
pub(crate) fn keyring(spec: &Spec) -> Result<bool, Error> {
    let said = spec.annotations().as_ref().and_then(|all| all.get(KEYRING));
    match said.map(String::as_str) {
        None => Ok(true),
        Some(INHERITED) => Ok(false),
        Some(other) => Err(Error::invalid(
            format!("annotations[{KEYRING:?}]"),
            format!("{other:?} is not {INHERITED:?}"),
        )),
    }
}

/// A host or domain name: only for a UTS namespace that is not the host's.
pub(super) fn host_name(field: &str, name: Option<&str>, namespaces: &Namespaces) -> Result<Option<String>, Error> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if !namespaces.is_private(libc::CLONE_NEWUTS) {
        return Err(Error::invalid(field, "needs a UTS namespace that is not the host's"));
    }
    if name.len() > 64 || name.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(Error::invalid(
            field,
            format!("{name:?} is no name of at most 64 bytes without blanks"),
        ));
    }
    Ok(Some(name.to_owned()))
}

/// Absolute paths without NUL.
pub(super) fn absolute(field: &str, paths: Option<&[String]>) -> Result<Vec<PathBuf>, Error> {
    let checked = |path: &String| {
        let path = PathBuf::from(path);
        if path.is_absolute() && !sys::path::has_nul(&path) {
            Ok(path)
        } else {
            Err(Error::invalid(field, format!("{path:?} is not absolute")))
        }
    };
    paths.unwrap_or_default().iter().map(checked).collect()
}

/// `linux.rootfsPropagation`.
pub(super) fn rootfs_propagation(value: Option<&str>) -> Result<Option<(Propagation, bool)>, Error> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    propagation(value)
        .map(Some)
        .ok_or_else(|| Error::invalid("linux.rootfsPropagation", format!("{value:?} is no propagation mode")))
}

/// A propagation word and whether it is recursive.
pub(super) fn propagation(word: &str) -> Option<(Propagation, bool)> {
    Some(match word {
        "shared" => (Propagation::Shared, false),
        "rshared" => (Propagation::Shared, true),
        "slave" => (Propagation::Slave, false),
        "rslave" => (Propagation::Slave, true),
        "private" => (Propagation::Private, false),
        "rprivate" => (Propagation::Private, true),
        "unbindable" => (Propagation::Unbindable, false),
        "runbindable" => (Propagation::Unbindable, true),
        _ => return None,
    })
}
