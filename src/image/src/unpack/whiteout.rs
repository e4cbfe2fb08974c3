//! `.wh.` names: how a layer says that something below it is gone.
//!
//! | archive                | in the layer's directory                     |
//! |------------------------|----------------------------------------------|
//! | `d/.wh.x`              | `d/x`, a character device 0:0                |
//! | `d/.wh..wh..opq`       | xattr `trusted.overlay.opaque=y` on `d`      |
//! | `.wh..wh.<other>`      | nothing: bookkeeping of aufs                 |
//!
//! A whiteout speaks of lower layers only (image-spec, layer.md): what the same layer puts at
//! that place stays, whichever comes first; a directory then hides the one below.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat, openat};
use rustix::io::Errno;

use super::UnpackError;
use super::tree::{lstat, set_opaque};

const PREFIX: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// Not a marker.
    None,
    /// The directory hides what is below it.
    Opaque,
    /// Something of aufs that means nothing to us.
    Ignored,
    /// This name is gone.
    Gone(&'a [u8]),
}

/// Reads an entry's name.
pub(super) fn marker<'a>(parts: &[&'a [u8]]) -> Result<Marker<'a>, UnpackError> {
    let Some((last, parents)) = parts.split_last() else {
        return Ok(Marker::None);
    };
    if parents.iter().any(|p| p.starts_with(META)) {
        return Ok(Marker::Ignored);
    }
    if parents.iter().any(|p| p.starts_with(PREFIX)) {
        return Err(UnpackError::hostile("it is inside a whiteout"));
    }
    if *last == OPAQUE_NAME {
        return Ok(Marker::Opaque);
    }
    if last.starts_with(META) {
        return Ok(Marker::Ignored);
    }
    match last.strip_prefix(PREFIX) {
        None => Ok(Marker::None),
        Some(b"" | b"." | b"..") => Err(UnpackError::hostile(
            "it is a whiteout of nothing, of \".\" or of \"..\"",
        )),
        Some(name) => Ok(Marker::Gone(name)),
    }
}

/// Hides `name` of the layers below.
pub(super) fn hide(parent: &OwnedFd, name: &[u8]) -> Result<bool, UnpackError> {
    match mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => {
            let stat = lstat(parent, name)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = openat(parent, name, flags, Mode::empty()).map_err(UnpackError::io("open"))?;
                set_opaque(&dir)?;
            }
            Ok(false)
        }
        Err(errno) => Err(UnpackError::io("make the whiteout")(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let of = |text: &'static str| marker(&text.split('/').map(str::as_bytes).collect::<Vec<_>>());
        assert_eq!(of("a/b").unwrap(), Marker::None);
        assert_eq!(of("a/.wh.b").unwrap(), Marker::Gone(b"b"));
        assert_eq!(of("a/.wh..wh..opq").unwrap(), Marker::Opaque);
        assert_eq!(of(".wh..wh.plnk").unwrap(), Marker::Ignored);
        assert_eq!(of(".wh..wh.plnk/1.2").unwrap(), Marker::Ignored);
        assert_eq!(of("a/.wh...b").unwrap(), Marker::Gone(b"..b"));
        for bad in [".wh.", ".wh..", ".wh...", "a/.wh...", ".wh.a/b"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert_eq!(marker(&[]).unwrap(), Marker::None);
    }
}
