//! Device nodes and the device cgroup. Pure: what the host paths are was looked up before
//! (`container/sources.rs`).

use std::path::{Path, PathBuf};

use proto::cri;
use spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType};

use crate::error::Error;

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    /// Where it goes in the container.
    pub(crate) path: PathBuf,
    /// Block, else character.
    pub(crate) block: bool,
    /// Major number.
    pub(crate) major: u32,
    /// Minor number.
    pub(crate) minor: u32,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Some of `r`, `w`, `m`.
    pub(crate) access: String,
}

/// Checks one entry of CRI's list; `permissions` empty means `rwm`.
pub(crate) fn access(device: &cri::Device) -> Result<String, Error> {
    let text = if device.permissions.is_empty() {
        "rwm"
    } else {
        device.permissions.as_str()
    };
    let good = text.len() <= 3 && text.chars().all(|c| "rwm".contains(c));
    if !good {
        return Err(Error::invalid(format!(
            "device {:?}: permissions {text:?} are not some of r, w, m",
            device.host_path
        )));
    }
    if device.host_path.is_empty() || !device.host_path.starts_with('/') {
        return Err(Error::invalid(format!(
            "device: host_path {:?} is not absolute",
            device.host_path
        )));
    }
    Ok(text.to_owned())
}

/// Where a device goes in the container: CRI's container_path, or the host's path.
pub(crate) fn target(device: &cri::Device) -> Result<PathBuf, Error> {
    let text = if device.container_path.is_empty() {
        &device.host_path
    } else {
        &device.container_path
    };
    let path = Path::new(text);
    if !path.is_absolute() || text.split('/').any(|c| c == "..") {
        return Err(Error::invalid(format!(
            "device: container_path {text:?} is not absolute and clean"
        )));
    }
    Ok(path.to_owned())
}

fn rule(
    allow: bool,
    typ: Option<LinuxDeviceType>,
    numbers: (Option<i64>, Option<i64>),
    access: &str,
) -> Result<LinuxDeviceCgroup, Error> {
    let mut builder = LinuxDeviceCgroupBuilder::default().allow(allow).access(access);
    if let Some(typ) = typ {
        builder = builder.typ(typ);
    }
    if let Some(major) = numbers.0 {
        builder = builder.major(major);
    }
    if let Some(minor) = numbers.1 {
        builder = builder.minor(minor);
    }
    builder.build().map_err(|e| Error::invalid(format!("device rule: {e}")))
}

/// Nodes to make, and the rules of the device cgroup: deny all, then allow. The devices that
/// every container needs (null, tty, …) are added by isolation, nodes and rules. With `all` any
/// device may be used.
pub(crate) fn devices(list: &[HostDevice], all: bool) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), Error> {
    let nodes = list.iter().map(node).collect::<Result<_, _>>()?;
    if all {
        return Ok((nodes, vec![rule(true, None, (None, None), "rwm")?]));
    }
    let mut rules = vec![rule(false, None, (None, None), "rwm")?];
    for device in list {
        let typ = if device.block {
            LinuxDeviceType::B
        } else {
            LinuxDeviceType::C
        };
        let numbers = (Some(i64::from(device.major)), Some(i64::from(device.minor)));
        rules.push(rule(true, Some(typ), numbers, &device.access)?);
    }
    Ok((nodes, rules))
}

fn node(device: &HostDevice) -> Result<LinuxDevice, Error> {
    LinuxDeviceBuilder::default()
        .path(device.path.clone())
        .typ(if device.block {
            LinuxDeviceType::B
        } else {
            LinuxDeviceType::C
        })
        .major(i64::from(device.major))
        .minor(i64::from(device.minor))
        .file_mode(device.mode)
        .uid(device.uid)
        .gid(device.gid)
        .build()
        .map_err(|e| Error::invalid(format!("device {}: {e}", device.path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fuse() -> HostDevice {
        HostDevice {
            path: "/dev/fuse".into(),
            block: false,
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: "rw".into(),
        }
    }

    #[test]
    fn deny_all_comes_first() {
        let (nodes, rules) = devices(&[fuse()], false).unwrap();
        assert_eq!(nodes.len(), 1);
        assert!(!rules[0].allow());
        let last = rules.last().unwrap();
        assert_eq!(
            (last.major(), last.minor(), last.access().as_deref()),
            (Some(10), Some(229), Some("rw"))
        );
        assert!(rules[1..].iter().all(LinuxDeviceCgroup::allow));
        let (_, rules) = devices(&[], true).unwrap();
        assert!(rules.len() == 1 && rules[0].allow());
    }

    #[test]
    fn bad_entries_are_refused() {
        let device = |host: &str, permissions: &str| cri::Device {
            host_path: host.into(),
            permissions: permissions.into(),
            ..Default::default()
        };
        assert_eq!(access(&device("/dev/fuse", "")).unwrap(), "rwm");
        for bad in [device("/dev/fuse", "rwx"), device("dev", "r"), device("", "r")] {
            assert!(access(&bad).is_err(), "{bad:?}");
        }
        assert!(
            target(&cri::Device {
                container_path: "/a/../b".into(),
                ..device("/x", "r")
            })
            .is_err()
        );
    }
}
