//! What a caller gives to prove itself to a registry. Never written to disk, a log or an
//! error: `Debug` shows only which fields are set, and the cache of tokens knows a
//! credential by its fingerprint.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// A CRI `AuthConfig`, as the kubelet found it in a pull secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name for basic authentication or a token request.
    pub username: String,
    /// Its password.
    pub password: String,
    /// `base64(username:password)`, an alternative to the two fields above.
    pub auth: String,
    /// An OAuth2 refresh token.
    pub identity_token: String,
    /// A bearer token that is sent to the registry as it is.
    pub registry_token: String,
    /// The registry it was issued for; where it is set, it is sent to no other.
    pub server_address: String,
}

/// What can be put into a request, in the order of preference.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    RegistryToken(String),
    IdentityToken(String),
    Basic { username: String, password: String },
}

impl Credentials {
    /// The usable part, if any. An `auth` field that cannot be decoded counts as absent: the
    /// registry's 401 then says what is wrong, and nothing quotes the field.
    pub(crate) fn secret(&self) -> Option<Secret> {
        if !self.registry_token.is_empty() {
            return Some(Secret::RegistryToken(self.registry_token.clone()));
        }
        if !self.identity_token.is_empty() {
            return Some(Secret::IdentityToken(self.identity_token.clone()));
        }
        if !self.username.is_empty() {
            return Some(Secret::Basic {
                username: self.username.clone(),
                password: self.password.clone(),
            });
        }
        let decoded = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        // Old docker clients pad the password with NUL.
        let password = password.trim_end_matches('\0');
        (!username.is_empty()).then(|| Secret::Basic {
            username: username.into(),
            password: password.into(),
        })
    }

    /// A key under which tokens got with this credential may be kept.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for field in [
            &self.username,
            &self.password,
            &self.auth,
            &self.identity_token,
            &self.registry_token,
            &self.server_address,
        ] {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field.as_bytes());
        }
        hash.finalize().into()
    }
}

impl Secret {
    /// The value of a `Basic` Authorization header, where this is a name and password.
    pub(crate) fn basic_header(&self) -> Option<String> {
        match self {
            Self::Basic { username, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |field: &str| if field.is_empty() { "-" } else { "<redacted>" };
        f.debug_struct("Credentials")
            .field("username", &shown(&self.username))
            .field("password", &shown(&self.password))
            .field("auth", &shown(&self.auth))
            .field("identity_token", &shown(&self.identity_token))
            .field("registry_token", &shown(&self.registry_token))
            .field("server_address", &self.server_address)
            .finish()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let all = Credentials {
            username: "MARK1".into(),
            password: "MARK2".into(),
            auth: "MARK3".into(),
            identity_token: "MARK4".into(),
            registry_token: "MARK5".into(),
            server_address: "registry.example".into(),
        };
        let text = format!("{all:?} {:?}", all.secret());
        assert!(!text.contains("MARK"), "{text}");
    }

    #[test]
    fn the_auth_field_is_decoded() {
        let auth = Credentials {
            auth: STANDARD.encode("me:a:b"),
            ..Credentials::default()
        };
        assert!(
            auth.secret()
                == Some(Secret::Basic {
                    username: "me".into(),
                    password: "a:b".into()
                })
        );
        assert!(
            Credentials {
                auth: "%%%".into(),
                ..Credentials::default()
            }
            .secret()
            .is_none()
        );
    }

    #[test]
    fn fingerprints_differ_where_fields_merely_join_to_the_same_text() {
        let a = Credentials {
            username: "ab".into(),
            password: "c".into(),
            ..Credentials::default()
        };
        let b = Credentials {
            username: "a".into(),
            password: "bc".into(),
            ..Credentials::default()
        };
        assert_ne!(a.fingerprint(), b.fingerprint());
    }
}
