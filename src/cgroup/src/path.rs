//! Cgroup paths: "/a/b", relative to the root of each mount.

use crate::Error;

/// Checks and normalises a path: leading slash, no "..", no empty or hidden surprises.
///
/// The path joins that of the mount, so a ".." would leave it (crun 1.29 had that hole).
pub(crate) fn normalise(path: &str) -> Result<String, Error> {
    let mut clean = String::with_capacity(path.len() + 1);
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(Error::invalid("path", path, "\"..\" is not allowed"));
        }
        // cgroup_mkdir refuses names with a newline: /proc/<pid>/cgroup would be ambiguous.
        if part.bytes().any(|byte| byte == 0 || byte == b'\n') {
            return Err(Error::invalid("path", path, "a NUL or newline is not allowed"));
        }
        if part.len() > 255 {
            return Err(Error::invalid("path", path, "a component has more than 255 bytes"));
        }
        clean.push('/');
        clean.push_str(part);
    }
    if clean.is_empty() {
        return Err(Error::invalid("path", path, "the root cgroup is not ours"));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised() {
        assert_eq!(normalise("a/b").unwrap(), "/a/b");
        assert_eq!(normalise("//a/./b/").unwrap(), "/a/b");
    }

    #[test]
    fn escapes_and_the_root_are_refused() {
        for bad in ["", "/", "/./", "../x", "/a/../b", "/a/..", "/a\n", "/a\0b"] {
            assert!(normalise(bad).is_err(), "{bad:?}");
        }
        assert!(normalise(&"x".repeat(300)).is_err());
    }
}
