//! Looks up what a container takes from the host: mount sources, devices, the seccomp
//! profile. Blocking (a source may lie on a dead network filesystem): runs on a thread for
//! blocking work, never on an async worker.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proto::cri;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::plan::devices::{self, HostDevice};
use super::plan::profile::Profile;
use super::plan::security::Seccomp;
use super::plan::wanted::Wanted;
use crate::error::Error;

/// Entries of /dev that are made for each container or belong to other container tools.
const OWN_DEVICES: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];

/// Sees to it that each mount's source exists (a missing one becomes a directory, as both
/// peers do) and that shared propagation has a shared source.
pub(crate) fn mounts(wanted: &[Wanted]) -> Result<(), Error> {
    for mount in wanted.iter().filter(|m| m.image.is_none()) {
        let path = &mount.source;
        match fs::metadata(path) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(path)
                    .map_err(|e| {
                        Error::at("make the missing mount source", path.display(), &e)
                            .during("mount on", mount.target.display())
                    })?;
            }
            Err(e) => {
                return Err(Error::at("look at the mount source", path.display(), &e)
                    .during("mount on", mount.target.display()));
            }
        }
    }
    let needs = |m: &&Wanted| m.propagation != cri::MountPropagation::PropagationPrivate;
    if wanted.iter().any(|m| needs(&m)) {
        let info =
            fs::read_to_string("/proc/self/mountinfo").map_err(|e| Error::at("read", "/proc/self/mountinfo", &e))?;
        for mount in wanted.iter().filter(needs) {
            // By the kernel's number: a link may lead to another mount than the one it lies on.
            let found = statx(CWD, &mount.source, AtFlags::empty(), StatxFlags::MNT_ID)
                .map_err(|e| Error::at("look at the mount source", mount.source.display(), &e))?;
            propagates(&info, mount, found.stx_mnt_id)?;
        }
    }
    Ok(())
}

/// Mount points in mountinfo have blanks and backslashes as octal escapes.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte as char);
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The mount that `mount`'s source lies on, by its number, must be shared (or, for one-way events, a slave).
fn propagates(mountinfo: &str, mount: &Wanted, number: u64) -> Result<(), Error> {
    let number = number.to_string();
    let Some(line) = mountinfo.lines().find(|line| line.split(' ').next() == Some(&number)) else {
        // It came after the look; isolation looks again when it opens the source.
        return Ok(());
    };
    let mut fields = line.split(' ');
    let point = unescape(fields.nth(4).unwrap_or_default());
    let tags: Vec<&str> = fields.skip(1).take_while(|f| *f != "-").collect();
    let has = |tag: &str| tags.iter().any(|t| t.starts_with(tag));
    let enough = match mount.propagation {
        cri::MountPropagation::PropagationBidirectional => has("shared:"),
        _ => has("shared:") || has("master:"),
    };
    if enough {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "mount on {}: host path {} lies on {point}, which is a private mount: {:?} needs a shared one (mount --make-rshared {point})",
        mount.target.display(),
        mount.source.display(),
        mount.propagation,
    )))
}

fn device(path: &Path, target: PathBuf, access: &str, asked: bool) -> Result<Option<HostDevice>, Error> {
    let found = fs::metadata(path).map_err(|e| Error::at("look at the device", path.display(), &e))?;
    let kind = found.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Ok(None);
    }
    Ok(Some(HostDevice {
        path: target,
        block: kind.is_block_device(),
        major: rustix::fs::major(found.rdev()),
        minor: rustix::fs::minor(found.rdev()),
        mode: found.mode() & 0o777,
        uid: found.uid(),
        gid: found.gid(),
        access: access.to_owned(),
        asked,
    }))
}

/// The device nodes below a directory, with their paths moved to another one; how they are lent.
struct Tree<'a> {
    from: &'a Path,
    to: &'a Path,
    access: &'a str,
    asked: bool,
}

fn below(dir: &Path, tree: &Tree<'_>, out: &mut Vec<HostDevice>) -> Result<(), Error> {
    let entries = fs::read_dir(dir).map_err(|e| Error::at("list", dir.display(), &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::at("list", dir.display(), &e))?;
        let (name, path) = (entry.file_name(), entry.path());
        // A node may vanish between the listing and the look; it was none of ours.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if !OWN_DEVICES.iter().any(|own| name == *own) {
                below(&path, tree, out)?;
            }
        } else if (kind.is_char_device() || kind.is_block_device())
            && name != "console"
            && let Ok(rest) = path.strip_prefix(tree.from)
            && let Ok(Some(found)) = device(&path, tree.to.join(rest), tree.access, tree.asked)
        {
            out.push(found);
        }
    }
    Ok(())
}

/// The devices that are asked for looked up, after all of the host's where those are wanted.
pub(crate) fn devices(asked: &[cri::Device], all: bool) -> Result<Vec<HostDevice>, Error> {
    let mut out = Vec::new();
    if all {
        let dev = Path::new("/dev");
        let tree = Tree {
            from: dev,
            to: dev,
            access: "rwm",
            asked: false,
        };
        below(dev, &tree, &mut out)?;
    }
    for wish in asked {
        let (access, target) = (devices::access(wish)?, devices::target(wish)?);
        let path = Path::new(&wish.host_path);
        if let Some(found) = device(path, target.clone(), &access, true)? {
            out.retain(|other| other.path != found.path);
            out.push(found);
        } else if path.is_dir() {
            let tree = Tree {
                from: path,
                to: &target,
                access: &access,
                asked: true,
            };
            below(path, &tree, &mut out)?;
        } else {
            return Err(Error::invalid(format!(
                "device {}: it is no device node",
                path.display()
            )));
        }
    }
    Ok(out)
}

/// An AppArmor profile must be loaded; here where a request can still be told, not in the new process. Ours is put back
/// where somebody has removed it: `aa-remove-unknown` does that to all that is no file of /etc/apparmor.d.
pub(crate) fn apparmor(name: Option<&str>) -> Result<(), Error> {
    match name {
        Some(crate::apparmor::DEFAULT) if !crate::apparmor::is_loaded(crate::apparmor::DEFAULT)? => {
            crate::apparmor::load().map(drop)
        }
        Some(name) if !crate::apparmor::is_loaded(name)? => Err(Error::invalid(format!(
            "AppArmor profile {name:?} is not loaded on this node"
        ))),
        _ => Ok(()),
    }
}

/// The localhost profile, if one is asked for.
pub(crate) fn seccomp(wanted: &Seccomp) -> Result<Option<Profile>, Error> {
    let Seccomp::Localhost(path) = wanted else {
        return Ok(None);
    };
    let read = Profile::read(Path::new(path));
    read.map(Some).map_err(|e| e.with_kind(spec::Kind::InvalidArgument))
}

/// Where the zones lie (tzdata).
const ZONES: &str = "/usr/share/zoneinfo";
/// The largest zone has some 4 kB.
const MAX_ZONE: u64 = 1 << 20;

/// The data of a time zone; `Local` is this host's, which changes while we run.
pub(crate) fn timezone(name: Option<&str>) -> Result<Option<Vec<u8>>, Error> {
    let Some(name) = name.filter(|n| !n.is_empty()) else {
        return Ok(None);
    };
    let path = match name {
        "Local" => PathBuf::from("/etc/localtime"),
        name => Path::new(ZONES).join(name),
    };
    let mut data = Vec::new();
    let at = |e: std::io::Error| {
        Error::at("read the time zone", path.display(), &e).with_kind(spec::Kind::FailedPrecondition)
    };
    fs::File::open(&path)
        .and_then(|file| file.take(MAX_ZONE).read_to_end(&mut data))
        .map_err(at)?;
    // RFC 9636, section 3.1.
    if !data.starts_with(b"TZif") {
        return Err(Error::precondition(format!("{} is no time zone", path.display())));
    }
    Ok(Some(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(source: &Path, propagation: cri::MountPropagation) -> Wanted {
        Wanted {
            target: "/x".into(),
            source: source.into(),
            image: None,
            propagation,
            readonly: false,
            recursive: false,
            relabel: false,
            ids: None,
            options: vec![],
        }
    }

    #[test]
    fn a_missing_source_becomes_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        mounts(&[wanted(&path, cri::MountPropagation::PropagationPrivate)]).unwrap();
        assert!(path.is_dir());
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = mounts(&[wanted(&file.join("c"), cri::MountPropagation::PropagationPrivate)]).unwrap_err();
        assert!(error.to_string().contains("mount on /x"), "{error}");
    }

    #[test]
    fn shared_propagation_needs_a_shared_mount() {
        let info = "1 0 8:1 / / rw,relatime - ext4 /dev/vda rw\n\
                    2 1 0:5 / /mnt/disk rw shared:7 - tmpfs x rw\n\
                    3 1 0:6 / /mnt/my\\040slave rw master:7 - tmpfs x rw\n";
        let check = |number, p| propagates(info, &wanted(Path::new("/s"), p), number);
        use cri::MountPropagation::{PropagationBidirectional as Both, PropagationHostToContainer as In};
        let error = check(1, Both).unwrap_err().to_string();
        assert!(error.contains("mount --make-rshared /)"), "{error}");
        assert!(check(1, In).is_err());
        assert!(check(2, Both).is_ok());
        assert!(check(3, In).is_ok());
        let error = check(3, Both).unwrap_err().to_string();
        assert!(error.contains("/mnt/my slave"), "{error}");
    }

    #[test]
    fn a_time_zone_is_one() {
        assert_eq!(timezone(None).unwrap(), None);
        for bad in ["No/Such", "zone.tab"] {
            let error = timezone(Some(bad)).unwrap_err();
            assert_eq!(error.kind(), spec::Kind::FailedPrecondition, "{error}");
        }
    }

    #[test]
    fn devices_are_looked_up() {
        let wish = |path: &str| {
            [cri::Device {
                host_path: path.into(),
                permissions: "rw".into(),
                ..Default::default()
            }]
        };
        let null = &devices(&wish("/dev/null"), false).unwrap()[0];
        assert_eq!(
            (null.major, null.minor, null.block, null.access.as_str()),
            (1, 3, false, "rw")
        );
        assert!(devices(&wish("/etc/passwd"), false).is_err());
        assert_eq!(
            devices(&wish("/dev/no-such"), false).unwrap_err().kind(),
            spec::Kind::NotFound
        );
        let all = devices(&[], true).unwrap();
        assert!(all.iter().any(|d| d.path == Path::new("/dev/null")));
        assert!(!all.iter().any(|d| d.path.starts_with("/dev/pts") || d.asked));
    }
}
