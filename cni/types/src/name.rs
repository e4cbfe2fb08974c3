//! Names that end up in file names, arguments and paths, checked before they do.
//!
//! A plugin type with a slash ran any program of the host (CVE-2021-20206); a container id or
//! interface name with one would leave the cache directory.

use thiserror::Error;

/// A name that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} {name:?} {why}")]
pub struct BadName {
    what: &'static str,
    name: String,
    why: &'static str,
}

fn bad(what: &'static str, name: &str, why: &'static str) -> BadName {
    BadName {
        what,
        name: name.chars().take(80).collect(),
        why,
    }
}

fn word(what: &'static str, name: &str) -> Result<(), BadName> {
    let mut bytes = name.bytes();
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if !bytes.next().is_some_and(|b| b.is_ascii_alphanumeric()) || !bytes.all(rest) {
        return Err(bad(
            what,
            name,
            "must start with a letter or digit and hold only letters, digits, '_', '.' and '-'",
        ));
    }
    if name.len() > 200 {
        return Err(bad(what, name, "is longer than 200 characters"));
    }
    Ok(())
}

/// Checks a container id.
///
/// # Errors
/// When it does not follow the specification.
pub fn container_id(name: &str) -> Result<(), BadName> {
    word("container id", name)
}

/// Checks the name of a network.
///
/// # Errors
/// When it does not follow the specification.
pub fn network(name: &str) -> Result<(), BadName> {
    word("network name", name)
}

/// Checks the name of an interface.
///
/// # Errors
/// When the kernel would not take it.
pub fn interface(name: &str) -> Result<(), BadName> {
    if name.is_empty() || name.len() > 15 {
        return Err(bad("interface name", name, "must have 1 to 15 characters"));
    }
    if matches!(name, "." | "..")
        || name
            .bytes()
            .any(|b| matches!(b, b'/' | b':' | 0) || b.is_ascii_whitespace())
    {
        return Err(bad(
            "interface name",
            name,
            "may hold no '/', ':' or white space, nor be '.' or '..'",
        ));
    }
    Ok(())
}

/// Checks the type of a plugin, which names a file in one of the plugin directories.
///
/// # Errors
/// When it could name anything else.
pub fn plugin(name: &str) -> Result<(), BadName> {
    if name.is_empty() || matches!(name, "." | "..") || name.bytes().any(|b| matches!(b, b'/' | b'\\' | 0)) {
        return Err(bad(
            "plugin type",
            name,
            "must name a file in a plugin directory, without any '/'",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_directory() {
        for name in ["../../bin/sh", "/bin/sh", "a/b", "", "..", ".", "a\0b"] {
            assert!(plugin(name).is_err(), "{name:?}");
            assert!(container_id(name).is_err(), "{name:?}");
            assert!(network(name).is_err(), "{name:?}");
            assert!(interface(name).is_err(), "{name:?}");
        }
        assert!(plugin("host-local").is_ok() && plugin("a.b_c").is_ok());
        assert!(interface("eth0").is_ok() && interface("cni0.100").is_ok());
        assert!(interface("a234567890123456").is_err() && interface("a b").is_err() && interface("a:b").is_err());
        assert!(container_id("-x").is_err() && container_id(&"a".repeat(64)).is_ok());
    }
}
