//! Device nodes: the default ones, then the spec's. Nothing where the spec binds a `/dev` of its own.

use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use spec::runtime::{LinuxDevice, LinuxDeviceType};
use sys::cap::MKNOD;
use sys::path::clean;

use super::Facts;
use super::mounts::{Mount, What};
use super::userns::User;
use crate::Error;

/// One node. Its owner is the host's: a device that the host keeps from others than its root stays out of reach for the
/// root of a user namespace, as with a node that is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    pub(crate) file_type: FileType,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What to do about `/dev`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Devices {
    /// Nodes that init makes.
    pub(crate) made: Vec<Node>,
    /// Nodes that the creator makes, in the `/dev` that it mounts for a container in a user namespace: nobody can make
    /// one there, and on a tmpfs that is mounted there none could be opened.
    pub(crate) ahead: Vec<Node>,
    /// The host's nodes of the same path, bound: this host, or the user namespace, does not let us make any.
    pub(crate) bound: Vec<Node>,
    /// Whether `/dev/fd`, `/dev/stdin`, … and `/dev/ptmx` are made: not in a `/dev` bound from elsewhere.
    pub(crate) links: bool,
}

const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

pub(super) fn plan(
    given: &[LinuxDevice],
    mounts: &[Mount],
    facts: &Facts<'_>,
    user: Option<&User>,
) -> Result<Devices, Error> {
    let bound = mounts
        .iter()
        .any(|mount| mount.target == Path::new("/dev") && matches!(mount.what, What::Bind { .. }));
    if bound {
        // A privileged container with the host's /dev: it has all nodes, and none may be made in the host's.
        return Ok(Devices::default());
    }
    let root = user.map_or(Ok((0, 0)), |user| user.maps.root())?;
    let default = |(name, major, minor): (&str, u32, u32)| Node {
        path: Path::new("/dev").join(name),
        file_type: FileType::CharacterDevice,
        major,
        minor,
        mode: 0o666,
        uid: root.0,
        gid: root.1,
    };
    let mut nodes: Vec<Node> = DEFAULT.into_iter().map(default).collect();
    for device in given {
        let node = node(device)?;
        // The spec's word about a default node stands.
        nodes.retain(|other| other.path != node.path);
        nodes.push(node);
    }
    // A bind mount over a node takes its place.
    nodes.retain(|node| !mounts.iter().any(|mount| mount.target == node.path));
    let mut devices = Devices {
        links: true,
        ..Devices::default()
    };
    if !facts.caps.contains(MKNOD) {
        devices.bound = nodes;
    } else if user.is_none() {
        devices.made = nodes;
    } else {
        let tmpfs = |mount: &Mount| matches!(&mount.what, What::Fs { fs, .. } if fs == "tmpfs");
        let dev = mounts
            .iter()
            .any(|mount| mount.target == Path::new("/dev") && tmpfs(mount));
        let inside = |node: &Node| dev && node.path.starts_with("/dev");
        (devices.ahead, devices.bound) = nodes.into_iter().partition(inside);
    }
    Ok(devices)
}

fn node(device: &LinuxDevice) -> Result<Node, Error> {
    let field = || format!("linux.devices[{:?}]", device.path());
    if !device.path().is_absolute() || sys::path::has_nul(device.path()) {
        return Err(Error::invalid(field(), "the path is not absolute"));
    }
    let file_type = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(Error::invalid(field(), "type \"a\" is no node")),
    };
    let number = |name: &str, value: i64, most: u32| {
        u32::try_from(value)
            .ok()
            .filter(|number| *number <= most)
            .ok_or_else(|| Error::invalid(field(), format!("{name} {value} is not from 0 to {most}")))
    };
    let mode = device.file_mode().unwrap_or(0o666);
    Ok(Node {
        path: clean(device.path()),
        file_type,
        major: number("major", device.major(), 0xfff)?,
        minor: number("minor", device.minor(), 0xf_ffff)?,
        mode: mode & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}
