//! The extractor on good, odd and hostile archives. Every hostile case runs beside a canary
//! that must not change.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::*;

#[path = "../../tests/support/tar.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the tests of whole pulls")]
mod writer;

mod hostile;
mod kinds;
mod replacing;
use writer::{Header, Tar, checksum};

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        fs::create_dir(dir.path().join("canary")).unwrap();
        fs::write(dir.path().join("canary/file"), "untouched").unwrap();
        fs::set_permissions(dir.path().join("canary/file"), fs::Permissions::from_mode(0o640)).unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn canary(&self) -> PathBuf {
        self.dir.path().join("canary")
    }

    fn unpack(&self, tar: &[u8]) -> Result<Unpacked, UnpackError> {
        let root = rustix::fs::open(self.root(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        unpack(tar, root, Limits::default()).map_err(|(e, _)| e)
    }

    fn assert_canary(&self, case: &str) {
        let dir = fs::symlink_metadata(self.canary()).unwrap();
        assert_eq!(dir.mode() & 0o7777, 0o755, "{case}");
        assert!(dir.is_dir());
        let names: Vec<_> = fs::read_dir(self.canary())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["file"], "{case}");
        let meta = fs::symlink_metadata(self.canary().join("file")).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.nlink(), meta.uid()),
            (0o640, 1, 0),
            "{case}"
        );
        assert_eq!(fs::read(self.canary().join("file")).unwrap(), b"untouched", "{case}");
        let beside: Vec<_> = fs::read_dir(self.dir.path()).unwrap().collect();
        assert_eq!(beside.len(), 2, "{case}");
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0u8; 256];
    let count = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(count);
    Some(value)
}
