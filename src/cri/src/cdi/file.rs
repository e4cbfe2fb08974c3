//! The format of a file: types and what makes them valid. What this build does not know is an error of that file: an
//! edit that is left out could be the one that keeps others safe.

use serde::Deserialize;

use super::names::{is_device, is_kind};

/// Versions whose fields are all known here.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];
const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    cdi_version: String,
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    /// For each container that gets one of its devices.
    #[serde(default)]
    pub(super) container_edits: Edits,
    pub(super) devices: Vec<Device>,
}

/// A device.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What changes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) net_devices: Vec<serde::de::IgnoredAny>,
    pub(super) hooks: Vec<Hook>,
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<serde::de::IgnoredAny>,
    #[serde(rename = "additionalGids")]
    pub(super) additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) host_path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) options: Vec<String>,
}

/// A hook.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

impl File {
    /// Reads and checks one; `name` says whether it is JSON or YAML.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let file: Self = if name.ends_with(".json") {
            serde_json::from_str(text).map_err(|e| e.to_string())?
        } else {
            serde_saphyr::from_str(text).map_err(|e| e.to_string())?
        };
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        if !VERSIONS.contains(&self.cdi_version.as_str()) {
            return Err(format!("cdiVersion {:?} is not known here", self.cdi_version));
        }
        if !is_kind(&self.kind) {
            return Err(format!("kind {:?} is not vendor/class", self.kind));
        }
        self.container_edits.check()?;
        for (index, device) in self.devices.iter().enumerate() {
            if !is_device(&device.name) {
                return Err(format!("{:?} is no name of a device", device.name));
            }
            if self.devices[..index].iter().any(|other| other.name == device.name) {
                return Err(format!("device {:?} is there twice", device.name));
            }
            device
                .container_edits
                .check()
                .map_err(|e| format!("device {:?}: {e}", device.name))?;
        }
        Ok(())
    }
}

impl Edits {
    fn check(&self) -> Result<(), String> {
        let absolute = |what: &str, path: &str| match path.starts_with('/') && !path.contains('\0') {
            true => Ok(()),
            false => Err(format!("{what} {path:?} is not an absolute path")),
        };
        for variable in &self.env {
            if variable.split_once('=').is_none_or(|(name, _)| name.is_empty()) || variable.contains('\0') {
                return Err(format!("env {variable:?} is not name=value"));
            }
        }
        for node in &self.device_nodes {
            absolute("deviceNodes: path", &node.path)?;
            if !node.host_path.is_empty() {
                absolute("deviceNodes: hostPath", &node.host_path)?;
            }
            if !["", "b", "c", "u", "p"].contains(&node.kind.as_str()) {
                return Err(format!("deviceNodes: type {:?} is not one of b, c, u, p", node.kind));
            }
            if node.permissions.chars().any(|c| !"rwm".contains(c)) {
                return Err(format!(
                    "deviceNodes: permissions {:?} are not some of r, w, m",
                    node.permissions
                ));
            }
        }
        for mount in &self.mounts {
            absolute("mounts: containerPath", &mount.container_path)?;
            if mount.host_path.is_empty() {
                return Err("mounts: hostPath is missing".to_owned());
            }
        }
        for hook in &self.hooks {
            absolute("hooks: path", &hook.path)?;
            if !HOOKS.contains(&hook.hook_name.as_str()) {
                return Err(format!("hooks: {:?} is none", hook.hook_name));
            }
        }
        Ok(())
    }
}
