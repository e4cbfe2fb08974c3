//! A device of the host, as administrators write it: `/dev/fuse`, `/dev/fuse:rw`, `/dev/sdc:/dev/xvdc:r`.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::section::leaf;

/// A device of the host and what a container gets of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// On the host: a node, or a directory of nodes.
    pub host: String,
    /// In the container.
    pub container: String,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

impl FromStr for Device {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let form = |why: &str| format!("{text:?} is no device: {why}; write it like /dev/fuse:/dev/fuse:rw");
        let path = |path: &str| {
            let clean = path.starts_with('/') && path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
            if clean && !path.contains(char::is_control) {
                Ok(path.to_owned())
            } else {
                Err(form(&format!("{path:?} is not an absolute, clean path")))
            }
        };
        let access = |text: &str| (1..=3).contains(&text.len()) && text.chars().all(|c| "rwm".contains(c));
        let parts: Vec<&str> = text.split(':').collect();
        let (host, container, permissions) = match parts.as_slice() {
            [host] => (host, host, "rwm"),
            [host, permissions] if access(permissions) => (host, host, *permissions),
            [host, container] => (host, container, "rwm"),
            [host, container, permissions] if access(permissions) => (host, container, *permissions),
            [_, _, permissions] => return Err(form(&format!("permissions {permissions:?} are not some of r, w, m"))),
            _ => return Err(form("it has more than three parts")),
        };
        Ok(Self {
            host: path(host)?,
            container: path(container)?,
            permissions: permissions.to_owned(),
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host, self.container, self.permissions)
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

leaf!(Vec<Device>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_are_not_said_have_defaults() {
        for (text, wanted) in [
            ("/dev/fuse", "/dev/fuse:/dev/fuse:rwm"),
            ("/dev/fuse:rw", "/dev/fuse:/dev/fuse:rw"),
            ("/dev/sdc:/dev/xvdc", "/dev/sdc:/dev/xvdc:rwm"),
            ("/dev/sdc:/dev/xvdc:r", "/dev/sdc:/dev/xvdc:r"),
        ] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), wanted);
        }
        for bad in [
            "",
            "fuse",
            "/dev/../etc/shadow",
            "/dev//fuse",
            "/dev/fuse:",
            "/dev/fuse:x",
            "/dev/fuse:/dev/fuse:x",
            "/dev/fuse:/dev/fuse:",
            "/a:/b:r:w",
            "/dev/fuse:/dev/./fuse",
        ] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }
}
