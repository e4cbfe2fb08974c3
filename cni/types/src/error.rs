//! The error object of the specification, which a plugin prints and its caller reads.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The codes that the specification reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The version of the configuration is not spoken.
    IncompatibleVersion,
    /// A field of the configuration is not supported.
    UnsupportedField,
    /// The container is unknown or does not exist.
    UnknownContainer,
    /// An environment variable is missing or wrong.
    InvalidEnvironment,
    /// Input or output failed.
    Io,
    /// The configuration is not JSON, or not of the right form.
    Decoding,
    /// The configuration does not make sense.
    InvalidConfig,
    /// Try again later.
    TryAgain,
    /// The plugin cannot serve ADD now (STATUS).
    NotAvailable,
    /// Existing containers may have limited connectivity as well (STATUS).
    LimitedConnectivity,
    /// A failure that has no code of its own.
    Internal,
}

impl Code {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decoding => 6,
            Self::InvalidConfig => 7,
            Self::TryAgain => 11,
            Self::NotAvailable => 50,
            Self::LimitedConnectivity => 51,
            Self::Internal => 999,
        }
    }
}

/// An error object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}", if details.is_empty() { String::new() } else { format!(" ({details})") })]
pub struct Error {
    /// Version the object follows.
    #[serde(rename = "cniVersion", default)]
    pub version: String,
    /// Reserved below 100, the plugin's own above.
    pub code: u32,
    /// What went wrong.
    #[serde(default)]
    pub msg: String,
    /// More of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// An error of one of the reserved codes.
    #[must_use]
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self {
            version: String::new(),
            code: code.number(),
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same, with more words.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Reads an error object: JSON with a `code` other than zero.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let error: Self = serde_json::from_value(value).ok()?;
        (error.code != 0).then_some(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_and_anything_else_is_not() {
        let text = br#"{"cniVersion":"1.0.0","code":11,"msg":"later","details":"busy","extra":1}"#;
        let error = Error::parse(text).unwrap();
        assert_eq!((error.code, error.to_string().as_str()), (11, "later (busy)"));
        for bad in [&b"{}"[..], b"[]", b"oops", br#"{"code":"x"}"#, br#"{"code":0}"#] {
            assert_eq!(Error::parse(bad), None);
        }
    }
}
