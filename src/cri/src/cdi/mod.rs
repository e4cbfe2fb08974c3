//! CDI: devices that a vendor describes in a file, injected by name (Container Device Interface, spec 1.1).
//!
//! `names` reads the request (field and annotations), `file` is the format, `registry` finds the devices in the
//! directories, `edit` changes the OCI specification. Files are read when a container asks for a device, not before:
//! what lies there then is what counts, and nobody else pays.
//!
//! Files come from the administrator and are trusted as such; names come from the caller, and the image has no say
//! (CVE-2026-94603). Where an edit lands in the container's root is isolation's affair, as with any mount or node.
//!
//! `container-device-interface` on crates.io does the same with 176 crates, a C YAML reader and a JSON schema engine.

mod edit;
mod file;
mod names;
mod registry;

use std::path::PathBuf;

use proto::cri;
use spec::runtime::Spec;

use crate::error::Error;
pub(crate) use names::Name;

/// The devices that a container asks for, by field and by annotation, each once.
pub(crate) fn wanted(config: &cri::ContainerConfig) -> Result<Vec<Name>, Error> {
    names::wanted(config)
}

/// Finds the devices and changes `spec` as they say. `owner` turns ids of the container into those of the host. Blocking.
pub(crate) fn inject(
    spec: &mut Spec,
    wanted: &[Name],
    dirs: &[PathBuf],
    owner: &dyn Fn(u32, u32) -> (u32, u32),
) -> Result<(), Error> {
    if wanted.is_empty() {
        return Ok(());
    }
    let edits = registry::find(wanted, dirs)?;
    edits.iter().try_for_each(|edits| edit::apply(spec, edits, owner))
}

#[cfg(test)]
mod tests;
