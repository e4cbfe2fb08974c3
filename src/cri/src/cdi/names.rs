//! Names of devices: `vendor.com/class=device`. Pure.

use std::fmt;

use proto::cri;

use crate::error::Error;

/// Annotations that name devices, comma separated, begin so.
const ANNOTATION: &str = "cdi.k8s.io/";
/// More are no request of a person.
const MOST: usize = 256;

/// A device's full name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// `vendor.com/class`.
    pub(crate) kind: String,
    /// Among the devices of that kind.
    pub(crate) device: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// Whether `kind` is `vendor/class` in the characters that the specification allows.
pub(super) fn is_kind(kind: &str) -> bool {
    let Some((vendor, class)) = kind.split_once('/') else {
        return false;
    };
    word(vendor, b"-_.") && word(class, b"-_")
}

/// Whether `name` is a device's name.
pub(super) fn is_device(name: &str) -> bool {
    // Digits may come first, unlike in vendors and classes.
    word(name, b"-_.:") || name.starts_with(|c: char| c.is_ascii_digit()) && word(&format!("d{name}"), b"-_.:")
}

/// A letter, then letters, digits and `more`, then a letter or digit.
fn word(text: &str, more: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    first.is_ascii_alphabetic()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || more.contains(b))
}

fn parse(text: &str) -> Result<Name, Error> {
    let name = text
        .split_once('=')
        .filter(|(kind, device)| is_kind(kind) && is_device(device));
    let (kind, device) = name.ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        Error::invalid(format!(
            "CDI device {shown:?} is no name of the form vendor.com/class=device"
        ))
    })?;
    Ok(Name {
        kind: kind.to_owned(),
        device: device.to_owned(),
    })
}

/// Of the field first, then of the annotations by their keys; each once.
pub(super) fn wanted(config: &cri::ContainerConfig) -> Result<Vec<Name>, Error> {
    let mut annotations: Vec<_> = config
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .collect();
    annotations.sort();
    let by_field = config.cdi_devices.iter().map(|device| device.name.as_str());
    let by_annotation = annotations
        .iter()
        .flat_map(|(_, value)| value.split(',').map(str::trim));
    let mut names: Vec<Name> = Vec::new();
    for text in by_field.chain(by_annotation) {
        let name = parse(text)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.len() > MOST {
        return Err(Error::invalid(format!(
            "{} CDI devices: at most {MOST} are possible",
            names.len()
        )));
    }
    Ok(names)
}
