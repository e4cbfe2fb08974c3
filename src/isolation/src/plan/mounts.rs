//! Mounts: options of the spec → filesystem options, attributes of the mount, propagation.
//!
//! What nothing here knows is handed to the filesystem, which refuses what it does not know. For a bind mount there
//! is no filesystem to ask, so an unknown option is an error.

use std::path::{Path, PathBuf};

use sys::mount::{
    ATIME, Attr, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, Propagation, RDONLY, RELATIME, STRICTATIME,
};
use sys::path::{Links, clean};

use super::userns::{Maps, maps};
use super::validate::propagation;
use crate::Error;

/// One mount, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// As the spec writes it, lexically clean: for messages and comparisons. Opened through the root handle.
    pub(crate) target: PathBuf,
    pub(crate) what: What,
    /// For this mount alone.
    pub(crate) attr: Attr,
    /// For it and all below (`rro`, …).
    pub(crate) tree_attr: Attr,
    /// What follows and whether all below follows too.
    pub(crate) propagation: (Propagation, bool),
    /// Ids of the source, mapped.
    pub(crate) idmap: Option<IdMapped>,
}

/// How the ids of a bind mount's source are mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdMapped {
    /// The ids; without, the container's own maps.
    pub(crate) maps: Option<Maps>,
    /// Also on what is mounted below.
    pub(crate) recursive: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A file or directory of the host.
    Bind { source: PathBuf, recursive: bool },
    /// A new filesystem.
    Fs {
        fs: String,
        source: Option<String>,
        options: Vec<(String, Option<String>)>,
        /// It begins with what the image has in its place.
        copy_up: bool,
    },
    /// The container's own cgroup, in every hierarchy.
    Cgroup,
}

impl Mount {
    /// Of a bind mount; else nothing.
    pub(crate) fn source(&self) -> &Path {
        match &self.what {
            What::Bind { source, .. } => source,
            _ => Path::new(""),
        }
    }

    /// How links on the way to the target are treated: where the kernel's own filesystems go, the image must not
    /// have planted one (CVE-2019-19921, CVE-2026-41579).
    pub(crate) fn links(&self) -> Links {
        let place = ["/proc", "/sys", "/dev"].iter().any(|dir| self.target.starts_with(dir));
        let kernel = match &self.what {
            What::Fs { fs, .. } => matches!(fs.as_str(), "proc" | "sysfs" | "devpts" | "mqueue"),
            What::Cgroup => true,
            What::Bind { .. } => false,
        };
        if place || kernel { Links::Refuse } else { Links::Follow }
    }
}

pub(super) fn plan(mounts: &[spec::runtime::Mount], userns: bool) -> Result<Vec<Mount>, Error> {
    let mounts: Vec<Mount> = mounts.iter().map(one).collect::<Result<_, _>>()?;
    let without = |mount: &&Mount| !userns && mount.idmap.as_ref().is_some_and(|idmap| idmap.maps.is_none());
    match mounts.iter().find(without) {
        Some(mount) => Err(Error::invalid(
            format!("mounts[{}]", mount.target.display()),
            "the option idmap needs mappings or a user namespace",
        )),
        None => Ok(mounts),
    }
}

fn one(mount: &spec::runtime::Mount) -> Result<Mount, Error> {
    let field = || format!("mounts[{}]", mount.destination().display());
    if !mount.destination().is_absolute() || sys::path::has_nul(mount.destination()) {
        return Err(Error::invalid(field(), "the destination is not absolute"));
    }
    let target = clean(mount.destination());
    if target == Path::new("/") {
        return Err(Error::invalid(field(), "the root is not a mount's destination"));
    }
    let mut options = Options::default();
    for option in mount.options().iter().flatten() {
        options
            .add(option)
            .map_err(|why| Error::unsupported(format!("{}: option {option:?}", field()), why))?;
    }
    let typ = mount.typ().as_deref().unwrap_or_default();
    let what = if options.bind.is_some() || typ == "bind" {
        bind(mount, &mut options, &field)?
    } else {
        match typ {
            "" => return Err(Error::invalid(field(), "has neither a type nor the option bind")),
            "cgroup" | "cgroup2" => {
                if let Some((name, _)) = options.data.first() {
                    return Err(Error::unsupported(
                        format!("{}: option {name:?}", field()),
                        "is not for cgroups",
                    ));
                }
                What::Cgroup
            }
            fs => What::Fs {
                fs: fs.to_owned(),
                source: text(mount.source().as_deref()),
                options: options.data,
                copy_up: options.copy_up,
            },
        }
    };
    // What is at /dev is made ahead of the root, and is nothing of the image's.
    if options.copy_up && (typ != "tmpfs" || !matches!(what, What::Fs { .. }) || target == Path::new("/dev")) {
        return Err(Error::unsupported(
            format!("{}: option \"tmpcopyup\"", field()),
            "is for a tmpfs, and not for that of /dev",
        ));
    }
    check_proc(&target, &what).map_err(|why| Error::invalid(field(), why))?;
    let idmap = idmap(mount, options.idmap, &what, &field)?;
    Ok(Mount {
        target,
        what,
        attr: options.attr,
        tree_attr: options.tree_attr,
        propagation: options.propagation.unwrap_or((Propagation::Private, true)),
        idmap,
    })
}

/// Mappings mean `idmap`; `idmap` without mappings means the container's.
fn idmap(
    mount: &spec::runtime::Mount,
    wanted: Option<bool>,
    what: &What,
    field: &dyn Fn() -> String,
) -> Result<Option<IdMapped>, Error> {
    let (uids, gids) = (maps(mount.uid_mappings()), maps(mount.gid_mappings()));
    let maps = if uids.is_empty() && gids.is_empty() {
        None
    } else {
        Some(Maps::new(&field(), uids, gids)?)
    };
    if maps.is_none() && wanted.is_none() {
        return Ok(None);
    }
    if !matches!(what, What::Bind { .. }) {
        return Err(Error::unsupported(field(), "only bind mounts can be idmapped"));
    }
    Ok(Some(IdMapped {
        maps,
        recursive: wanted.unwrap_or(false),
    }))
}

fn text(path: Option<&Path>) -> Option<String> {
    path.and_then(Path::to_str)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

fn bind(mount: &spec::runtime::Mount, options: &mut Options, field: &dyn Fn() -> String) -> Result<What, Error> {
    if let Some((name, _)) = options.data.first() {
        return Err(Error::unsupported(
            format!("{}: option {name:?}", field()),
            "is not for a bind mount",
        ));
    }
    let source = mount.source().clone().unwrap_or_default();
    if source.as_os_str().is_empty() || sys::path::has_nul(&source) {
        return Err(Error::invalid(field(), "a bind mount needs a source"));
    }
    Ok(What::Bind {
        source,
        recursive: options.bind.unwrap_or(false),
    })
}

/// What may lie over procfs: nothing, except files that fake one number for the container, and procfs itself
/// (CVE-2015-3631, CVE-2019-16884).
fn check_proc(target: &Path, what: &What) -> Result<(), &'static str> {
    if !target.starts_with("/proc") {
        return Ok(());
    }
    match what {
        What::Fs { fs, .. } if fs == "proc" && target == Path::new("/proc") => Ok(()),
        What::Bind { source, .. } if target == Path::new("/proc") && source == Path::new("/proc") => Ok(()),
        What::Bind { .. } if allowed_in_proc(target) => Ok(()),
        _ => Err("nothing may be mounted over /proc"),
    }
}

/// The files below `/proc` that may be replaced (by lxcfs and the like).
pub(crate) fn allowed_in_proc(target: &Path) -> bool {
    const ALLOWED: [&str; 9] = [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/sys/kernel/ns_last_pid",
    ];
    ALLOWED.iter().any(|path| target == Path::new(path))
}

#[derive(Debug, Default)]
struct Options {
    /// Whether it is a bind mount, and a recursive one.
    bind: Option<bool>,
    attr: Attr,
    tree_attr: Attr,
    propagation: Option<(Propagation, bool)>,
    /// Whether ids are mapped, and also on what is mounted below.
    idmap: Option<bool>,
    copy_up: bool,
    data: Vec<(String, Option<String>)>,
}

impl Options {
    fn add(&mut self, option: &str) -> Result<(), &'static str> {
        if let Some(propagation) = propagation(option) {
            self.propagation = Some(propagation);
            return Ok(());
        }
        if let Some((attr, on)) = attribute(option) {
            change(&mut self.attr, attr, on);
            return Ok(());
        }
        if let Some((attr, on)) = option.strip_prefix('r').and_then(attribute) {
            change(&mut self.tree_attr, attr, on);
            return Ok(());
        }
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "defaults" | "async" | "nolazytime" | "nomand" | "loud" | "silent" | "norelatime" | "nostrictatime" => {}
            "remount" => return Err("a mount is made once"),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
            "ridmap" => self.idmap = Some(true),
            _ => match option.split_once('=') {
                Some((key, value)) => self.data.push((key.to_owned(), Some(value.to_owned()))),
                None => self.data.push((option.to_owned(), None)),
            },
        }
        Ok(())
    }
}

/// The attribute behind an option, and whether the option sets it.
fn attribute(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (RDONLY, true),
        "rw" => (RDONLY, false),
        "nosuid" => (NOSUID, true),
        "suid" => (NOSUID, false),
        "nodev" => (NODEV, true),
        "dev" => (NODEV, false),
        "noexec" => (NOEXEC, true),
        "exec" => (NOEXEC, false),
        "nosymfollow" => (NOSYMFOLLOW, true),
        "symfollow" => (NOSYMFOLLOW, false),
        "nodiratime" => (NODIRATIME, true),
        "diratime" => (NODIRATIME, false),
        "noatime" => (NOATIME, true),
        "strictatime" => (STRICTATIME, true),
        "relatime" => (RELATIME, true),
        "atime" => (NOATIME, false),
        _ => return None,
    })
}

fn change(attr: &mut Attr, bits: u64, on: bool) {
    if matches!(bits, NOATIME | STRICTATIME | RELATIME) {
        // One field with three values: the kernel wants it cleared as a whole.
        attr.clear |= ATIME;
        attr.set &= !ATIME;
        attr.set |= if on { bits } else { RELATIME };
    } else if on {
        attr.set |= bits;
        attr.clear &= !bits;
    } else {
        attr.clear |= bits;
        attr.set &= !bits;
    }
}
