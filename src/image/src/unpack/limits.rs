//! What no honest layer exceeds, and the names an entry may have.

use rustix::fs::fstatvfs;
use std::os::fd::AsFd;

use super::UnpackError;

/// Bounds of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) entries: u64,
    pub(crate) path: usize,
    pub(crate) depth: usize,
    /// A file announced larger than this is compared with the free space first.
    pub(crate) ask_for_space: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 5_000_000,
            path: 4096,
            depth: 256,
            ask_for_space: 16 << 20,
        }
    }
}

impl Limits {
    /// The components of an entry's name; none for the root of the layer. Absolute names are
    /// taken as relative, as docker does; `..` is refused: no honest tool writes it.
    pub(super) fn components<'a>(&self, path: &'a [u8]) -> Result<Vec<&'a [u8]>, UnpackError> {
        if path.len() > self.path {
            return Err(UnpackError::hostile(format!(
                "its name has {} bytes; at most {} are allowed",
                path.len(),
                self.path
            )));
        }
        let parts: Vec<&[u8]> = path
            .split(|b| *b == b'/')
            .filter(|p| !p.is_empty() && *p != b".")
            .collect();
        if parts.contains(&b"..".as_slice()) {
            return Err(UnpackError::hostile("its name contains \"..\""));
        }
        if parts.len() > self.depth {
            return Err(UnpackError::hostile(format!(
                "it is {} directories deep; at most {} are allowed",
                parts.len(),
                self.depth
            )));
        }
        if parts.iter().any(|p| p.len() > 255) {
            return Err(UnpackError::hostile("a part of its name is longer than 255 bytes"));
        }
        Ok(parts)
    }

    /// Refuses a file that cannot fit before half of it is written.
    pub(super) fn check_space(&self, dir: impl AsFd, size: u64) -> Result<(), UnpackError> {
        if size < self.ask_for_space {
            return Ok(());
        }
        let fs = fstatvfs(dir).map_err(UnpackError::io("statvfs"))?;
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        if size > free {
            return Err(UnpackError::NoSpace { size, free });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let limits = Limits::default();
        let parts = |p: &str| limits.components(p.as_bytes()).map(|c| c.join(&b'|'));
        assert_eq!(parts("/a//./b/").unwrap(), b"a|b");
        assert_eq!(parts("./").unwrap(), b"");
        assert_eq!(parts("...").unwrap(), b"...");
        for bad in ["..", "../a", "a/..", "a/../b", "/../../etc/passwd"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
        assert!(parts(&"a/".repeat(257)).is_err());
        assert!(parts(&"a".repeat(256)).is_err());
        assert!(parts(&"a/".repeat(2049)).is_err());
    }
}
