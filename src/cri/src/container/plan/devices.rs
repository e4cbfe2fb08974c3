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
    /// Asked for by name, not one of all that the host has.
    pub(crate) asked: bool,
}

/// The annotation that asks for devices, as CRI-O has it: `/dev/fuse:/dev/fuse:rw,/dev/net/tun`.
pub(crate) const ANNOTATION: &str = "io.kubernetes.cri-o.Devices";

/// A device of the configuration or of the annotation, as one of CRI.
fn lent(device: &config::Device) -> cri::Device {
    cri::Device {
        host_path: device.host.clone(),
        container_path: device.container.clone(),
        permissions: device.permissions.clone(),
    }
}

/// All devices that are asked for by name, later ones in the place of earlier ones: by the administrator for every
/// container, by the annotation, by CRI. `annotation` is what the handler has let through.
pub(crate) fn asked(
    config: &cri::ContainerConfig,
    annotation: Option<&str>,
    runtime: &config::Runtime,
) -> Result<Vec<cri::Device>, Error> {
    let mut all: Vec<cri::Device> = runtime.additional_devices.iter().map(lent).collect();
    let lines = annotation.unwrap_or_default().split(',').map(str::trim);
    for line in lines.filter(|line| !line.is_empty()) {
        let bad = |why: String| Error::invalid(format!("annotation {ANNOTATION}: {why}"));
        let device: config::Device = line.parse().map_err(bad)?;
        if !runtime.allowed_devices.contains(&device.host) {
            return Err(bad(format!(
                "{} is not among the devices that this node lends by annotation: {} (runtime.allowed_devices)",
                device.host,
                runtime.allowed_devices.join(", ")
            )));
        }
        all.push(lent(&device));
    }
    all.extend(config.devices.iter().cloned());
    Ok(all)
}

/// Gives the devices that are asked for by name to the user and the group that the security context names, by their ids
/// on the host. What it does not name stays as it is on the host, and so do the other devices of a privileged container:
/// a disk of the host is not a user's because the container may see it.
pub(crate) fn give(devices: &mut [HostDevice], owner: (Option<u32>, Option<u32>)) {
    for device in devices.iter_mut().filter(|device| device.asked) {
        device.uid = owner.0.unwrap_or(device.uid);
        device.gid = owner.1.unwrap_or(device.gid);
    }
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
            asked: true,
        }
    }

    #[test]
    fn an_owner_is_given_to_what_was_asked_for_alone() {
        let disk = HostDevice {
            path: "/dev/sda".into(),
            asked: false,
            ..fuse()
        };
        let mut all = [fuse(), disk];
        give(&mut all, (Some(7), None));
        assert_eq!((all[0].uid, all[0].gid, all[1].uid), (7, 0, 0));
        give(&mut all, (None, Some(8)));
        assert_eq!((all[0].uid, all[0].gid, all[1].gid), (7, 8, 0));
    }

    #[test]
    fn the_administrator_the_annotation_and_cri_ask_in_this_order() {
        let runtime = config::Runtime {
            additional_devices: vec!["/dev/kmsg:r".parse().unwrap()],
            ..config::Runtime::default()
        };
        let config = cri::ContainerConfig {
            devices: vec![cri::Device {
                host_path: "/dev/null".into(),
                ..cri::Device::default()
            }],
            ..cri::ContainerConfig::default()
        };
        let names = |annotation: &str| {
            let all = asked(&config, Some(annotation), &runtime)?;
            Ok::<_, Error>(all.into_iter().map(|d| d.host_path).collect::<Vec<_>>())
        };
        assert_eq!(names("").unwrap(), ["/dev/kmsg", "/dev/null"]);
        assert_eq!(
            names("/dev/fuse:rw, /dev/net/tun").unwrap(),
            ["/dev/kmsg", "/dev/fuse", "/dev/net/tun", "/dev/null"]
        );
        for bad in [
            "/dev/sda",
            "/dev/fuse,/dev/sda:/dev/fuse",
            "fuse",
            "/dev/fuse:x",
            "/dev/fuse/../sda",
        ] {
            assert_eq!(names(bad).unwrap_err().kind(), spec::Kind::InvalidArgument, "{bad}");
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
