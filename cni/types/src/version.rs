//! Versions of the CNI specification: parsed, compared, negotiated.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    major: u16,
    minor: u16,
    patch: u16,
}

impl Version {
    /// A configuration that names no version means this one.
    pub const UNNAMED: Self = Self::new(0, 1, 0);
    /// The first with results of several interfaces and addresses.
    pub const LISTS: Self = Self::new(0, 3, 0);
    /// The first with CHECK, and with the cached result given to DEL.
    pub const CHECK: Self = Self::new(0, 4, 0);
    /// The first without `version` in an address of a result.
    pub const V1: Self = Self::new(1, 0, 0);
    /// The first with GC and STATUS.
    pub const STATUS: Self = Self::new(1, 1, 0);
    /// Every version this code speaks, oldest first.
    pub const SUPPORTED: [Self; 7] = [
        Self::new(0, 1, 0),
        Self::new(0, 2, 0),
        Self::new(0, 3, 0),
        Self::new(0, 3, 1),
        Self::new(0, 4, 0),
        Self::new(1, 0, 0),
        Self::new(1, 1, 0),
    ];
    /// The newest of them.
    pub const CURRENT: Self = Self::STATUS;

    /// A version by its numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Whether this code speaks it.
    #[must_use]
    pub fn is_supported(self) -> bool {
        Self::SUPPORTED.contains(&self)
    }

    /// The supported versions as text.
    #[must_use]
    pub fn supported() -> Vec<String> {
        Self::SUPPORTED.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version: three numbers with dots between are wanted")]
pub struct BadVersion(String);

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        if text.is_empty() {
            return Ok(Self::UNNAMED);
        }
        let bad = || BadVersion(text.chars().take(40).collect());
        let mut parts = text.split('.');
        let mut next = |required: bool| match parts.next() {
            Some(part) if part.bytes().all(|b| b.is_ascii_digit()) => part.parse::<u16>().map_err(|_| bad()),
            Some(_) => Err(bad()),
            None if required => Err(bad()),
            None => Ok(0),
        };
        let version = Self::new(next(true)?, next(true)?, next(false)?);
        if parts.next().is_some() {
            Err(bad())
        } else {
            Ok(version)
        }
    }
}

impl TryFrom<String> for Version {
    type Error = BadVersion;

    fn try_from(text: String) -> Result<Self, BadVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let parse = |text: &str| text.parse::<Version>();
        assert_eq!(parse("").unwrap(), Version::UNNAMED);
        assert_eq!(parse("1.0").unwrap(), Version::V1);
        assert!(parse("0.10.0").unwrap() > Version::CHECK);
        assert_eq!(parse("1.1.0").unwrap().to_string(), "1.1.0");
        for bad in ["1", "1.x.0", "1.0.0.0", "1.-1.0", "99999.0.0", " 1.0.0", "+1.0.0"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
