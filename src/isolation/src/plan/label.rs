//! AppArmor and SELinux: what the new program is confined by. Nothing is confined in silence: a label that this host
//! cannot give is an error.

use spec::runtime::Process;

use super::Facts;
use crate::Error;

/// A security module of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Module {
    AppArmor,
    SeLinux,
}

/// What execve is to change to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    /// The name of a profile that is loaded.
    pub(crate) apparmor: Option<String>,
    /// A context: user, role, type, level.
    pub(crate) selinux: Option<String>,
}

impl Labels {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

pub(super) fn plan(process: &Process, facts: &Facts<'_>) -> Result<Labels, Error> {
    let apparmor = process.apparmor_profile().as_deref();
    let selinux = process.selinux_label().as_deref();
    Ok(Labels {
        // As other runtimes read it: the profile that is none.
        apparmor: one(
            "process.apparmorProfile",
            apparmor.filter(|name| *name != "unconfined"),
            Module::AppArmor,
            facts,
        )?,
        selinux: one("process.selinuxLabel", selinux, Module::SeLinux, facts)?,
    })
}

/// One label: words that the kernel takes in one write.
pub(super) fn one(
    field: &str,
    label: Option<&str>,
    module: Module,
    facts: &Facts<'_>,
) -> Result<Option<String>, Error> {
    let Some(label) = label.filter(|label| !label.is_empty()) else {
        return Ok(None);
    };
    if label.len() > 4000 || label.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(Error::invalid(field, "is too long or holds control characters"));
    }
    if !(facts.has)(module) {
        let name = match module {
            Module::AppArmor => "AppArmor",
            Module::SeLinux => "SELinux",
        };
        return Err(Error::state(
            field,
            format!("{label:?} is asked for, but this host has no {name}"),
        ));
    }
    Ok(Some(label.to_owned()))
}
