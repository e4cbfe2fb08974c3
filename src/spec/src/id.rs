//! Ids of pods, containers and images, parsed once at the border.
//!
//! A pod or container id is 64 lower-case hexadecimal digits, as the peers make them:
//! cAdvisor looks for exactly that in cgroup names.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A string that is no id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not an id: 64 lower-case hexadecimal digits are wanted")]
pub struct BadId(String);

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes a string that is exactly an id.
            ///
            /// # Errors
            /// When it is not 64 lower-case hexadecimal digits.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                if is_hex64(text) { Ok(Self(text.to_owned())) } else { Err(BadId(text.chars().take(80).collect())) }
            }

            /// A new random id.
            ///
            /// # Errors
            /// When the kernel gives no randomness.
            pub fn random() -> Result<Self, getrandom::Error> {
                let mut bytes = [0u8; 32];
                getrandom::fill(&mut bytes)?;
                Ok(Self(crate::digest::hex(&bytes)))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 13 digits, as tables show it.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.0[..13]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// Id of a container.
    ContainerId
);
id!(
    /// Id of a pod sandbox.
    SandboxId
);
id!(
    /// Hexadecimal part of the SHA-256 of an image's configuration; CRI shows it as `sha256:…`.
    ImageId
);

impl ImageId {
    /// `sha256:` and the digits, as CRI replies carry it.
    #[must_use]
    pub fn with_algorithm(&self) -> String {
        format!("sha256:{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse_and_differ() {
        let (a, b) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(ContainerId::parse(a.as_str()).unwrap(), a);
    }

    #[test]
    fn paths_and_upper_case_are_refused() {
        for bad in ["", "..", "../../etc", &"A".repeat(64), &"a".repeat(63), &"g".repeat(64)] {
            assert!(ContainerId::parse(bad).is_err(), "{bad}");
        }
    }
}
