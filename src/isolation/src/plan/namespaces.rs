//! Namespaces: which are made with clone3, which are joined by their file, and in which process.

use std::fmt::Write;
use std::path::PathBuf;

use spec::runtime::{Linux, LinuxNamespaceType};

use crate::Error;

/// One namespace to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Join {
    /// `CLONE_NEW*`.
    pub(crate) kind: libc::c_int,
    /// Its file on the host.
    pub(crate) path: PathBuf,
}

/// What becomes of each kind but the user namespace. What is in neither list stays the caller's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// Made anew: the mask of their `CLONE_NEW*`.
    pub(crate) new: libc::c_int,
    /// Joined, in the spec's order.
    pub(crate) join: Vec<Join>,
}

impl Namespaces {
    /// Whether the container has one of this kind that is not the caller's.
    pub(crate) fn is_private(&self, kind: libc::c_int) -> bool {
        self.new & kind != 0 || self.join.iter().any(|join| join.kind == kind)
    }

    /// Whether it is made anew.
    pub(crate) fn is_new(&self, kind: libc::c_int) -> bool {
        self.new & kind != 0
    }
}

/// `CLONE_NEW*` and the name of a type.
fn kind(of: LinuxNamespaceType) -> (libc::c_int, &'static str) {
    match of {
        LinuxNamespaceType::Mount => (libc::CLONE_NEWNS, "mount"),
        LinuxNamespaceType::Cgroup => (libc::CLONE_NEWCGROUP, "cgroup"),
        LinuxNamespaceType::Uts => (libc::CLONE_NEWUTS, "uts"),
        LinuxNamespaceType::Ipc => (libc::CLONE_NEWIPC, "ipc"),
        LinuxNamespaceType::User => (libc::CLONE_NEWUSER, "user"),
        LinuxNamespaceType::Pid => (libc::CLONE_NEWPID, "pid"),
        LinuxNamespaceType::Network => (libc::CLONE_NEWNET, "network"),
        LinuxNamespaceType::Time => (sys::ns::NEWTIME, "time"),
    }
}

pub(super) fn plan(linux: &Linux) -> Result<Namespaces, Error> {
    let mut out = Namespaces::default();
    let mut user = false;
    for namespace in linux.namespaces().as_deref().unwrap_or_default() {
        let (kind, name) = kind(namespace.typ());
        let field = || format!("linux.namespaces[{name}]");
        if out.is_private(kind) {
            return Err(Error::invalid(field(), "is there twice"));
        }
        if kind == libc::CLONE_NEWUSER {
            if user {
                return Err(Error::invalid(field(), "is there twice"));
            }
            // Planned in `userns`: it is made or joined before all others, by the creator.
            user = true;
            continue;
        }
        match namespace.path() {
            Some(path) if path.is_absolute() => {
                if kind == libc::CLONE_NEWNS {
                    return Err(Error::unsupported(
                        field(),
                        "a mount namespace by path is not supported yet",
                    ));
                }
                out.join.push(Join {
                    kind,
                    path: path.clone(),
                });
            }
            Some(path) if !path.as_os_str().is_empty() => {
                return Err(Error::invalid(field(), format!("path {path:?} is not absolute")));
            }
            _ => out.new |= kind,
        }
    }
    if !out.is_new(libc::CLONE_NEWNS) {
        return Err(Error::unsupported(
            "linux.namespaces",
            "a process without a mount namespace of its own is refused",
        ));
    }
    Ok(out)
}

/// The text for `timens_offsets`: one line a clock.
pub(super) fn time_offsets(linux: &Linux, namespaces: &Namespaces) -> Result<Option<String>, Error> {
    let Some(offsets) = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty()) else {
        return Ok(None);
    };
    if !namespaces.is_new(sys::ns::NEWTIME) {
        return Err(Error::invalid("linux.timeOffsets", "needs a new time namespace"));
    }
    let mut clocks: Vec<_> = offsets.iter().collect();
    clocks.sort_by_key(|(clock, _)| clock.as_str());
    let mut text = String::new();
    for (clock, offset) in clocks {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::invalid(
                "linux.timeOffsets",
                format!("{clock:?} is no clock that has an offset"),
            ));
        }
        let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        writeln!(text, "{clock} {secs} {nanos}")
            .map_err(|_| Error::invalid("linux.timeOffsets", "cannot be written as text"))?;
    }
    Ok(Some(text))
}
