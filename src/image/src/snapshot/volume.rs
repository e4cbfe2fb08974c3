//! Anonymous volumes: the directories that an image's VOLUME lines name, one for each
//! container, filled with what the image has there.
//!
//! They lie in `snapshots/<container id>/volumes/<number>`, so that the snapshot's removal
//! takes them away and a daemon that died leaves none behind, and on the plain filesystem, not
//! on the overlay: that is what VOLUME is for (an overlay cannot be the upper directory of
//! another one, and databases prefer it). The image's path is resolved inside the root
//! (openat2 RESOLVE_IN_ROOT) and the copy never follows a link: all it reads is the image, all
//! it writes is the new directory.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, chownat, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use spec::{ContainerId, Kind};
use sys::path::openat2;

use super::IdShift;
use super::copy::{LIST, copy};
use crate::error::{Error, sys};
use crate::store::Store;

impl Store {
    /// Makes volume `number` of a container, with a copy of what `root` (the container's root)
    /// has at `path`; answers where it is. `shift` is that of the container's user namespace.
    ///
    /// # Errors
    /// `InvalidArgument` where the image has something else than a directory there, and what
    /// the filesystem says otherwise.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one thing that the volume is made from"
    )]
    pub fn snapshot_volume(
        &self,
        id: &ContainerId,
        number: usize,
        root: BorrowedFd<'_>,
        path: &Path,
        shift: IdShift,
    ) -> Result<PathBuf, Error> {
        let at = |e: Error| e.within(format!("volume {} of container {id}", path.display()));
        let parent = self.snapshot_dir(id).join("volumes");
        match rustix::fs::mkdir(&parent, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(at(sys("mkdir", parent.display())(e))),
        }
        let volume = parent.join(number.to_string());
        fill(&volume, root, path, shift).map_err(at)?;
        Ok(volume)
    }
}

impl Store {
    /// Makes the directory `path` in `root`, a container's root, with those above it; what is there stays.
    ///
    /// # Errors
    /// `InvalidArgument` where something else is in the way, and what the filesystem says otherwise.
    pub fn make_dir(root: BorrowedFd<'_>, path: &Path, shift: IdShift) -> Result<(), Error> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut below = PathBuf::new();
        let mut parent = openat2(root, ".", flags, resolve).map_err(sys("open", "the root"))?;
        for part in path.strip_prefix("/").unwrap_or(path) {
            below.push(part);
            let open = || openat2(root, &below, flags, resolve);
            parent = match open() {
                Err(Errno::NOENT) => {
                    mkdirat(&parent, part, Mode::from_raw_mode(0o755)).map_err(sys("mkdir", below.display()))?;
                    let (uid, gid, _) = shift.apply((0, 0, 0))?;
                    chownat(
                        &parent,
                        part,
                        Some(Uid::from_raw(uid)),
                        Some(Gid::from_raw(gid)),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )
                    .map_err(sys("chown", below.display()))?;
                    open()
                }
                other => other,
            }
            .map_err(|e| match e {
                Errno::NOTDIR | Errno::LOOP => Error::new(
                    Kind::InvalidArgument,
                    format!("the image has something else than a directory at {}", below.display()),
                ),
                e => sys("open in the image", below.display())(e),
            })?;
        }
        Ok(())
    }
}

fn fill(volume: &Path, root: BorrowedFd<'_>, path: &Path, shift: IdShift) -> Result<(), Error> {
    rustix::fs::mkdir(volume, Mode::from_raw_mode(0o755)).map_err(sys("mkdir", volume.display()))?;
    // What is copied has the right owners already: the root shows the host's ids of the container's.
    let owner = (Some(Uid::from_raw(shift.uid)), Some(Gid::from_raw(shift.gid)));
    chownat(CWD, volume, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).map_err(sys("chown", volume.display()))?;
    let inside = path.strip_prefix("/").unwrap_or(path);
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let from = match openat2(root, inside, flags, resolve) {
        Ok(from) => from,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR) => {
            return Err(Error::new(
                Kind::InvalidArgument,
                "the image has something else than a directory there",
            ));
        }
        Err(e) => return Err(sys("open in the image", path.display())(e)),
    };
    let to = openat(CWD, volume, LIST, Mode::empty()).map_err(sys("open", volume.display()))?;
    copy(&from, &to, IdShift::NONE).map_err(|e| e.within("copy from the image"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, XattrFlags, fgetxattr, fsetxattr, mknodat, statat};
    use std::fs::File;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// A root with `/data` in it, and beside it a file that no volume may show.
    fn root(dir: &Path) -> OwnedFd {
        let data = dir.join("root/data/sub");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(dir.join("secret"), "secret").unwrap();
        std::fs::write(data.join("file"), "of the image").unwrap();
        std::fs::set_permissions(data.join("file"), std::fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("/secret", dir.join("root/data/link")).unwrap();
        mknodat(CWD, dir.join("root/data/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fsetxattr(
            File::open(data.join("file")).unwrap(),
            "user.a",
            b"1",
            XattrFlags::empty(),
        )
        .unwrap();
        std::os::unix::fs::chown(dir.join("root/data"), Some(7), Some(8)).unwrap();
        std::fs::set_permissions(dir.join("root/data"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        openat(CWD, dir.join("root"), LIST, Mode::empty()).unwrap()
    }

    #[test]
    fn a_volume_is_a_faithful_copy() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        let volume = dir.path().join("v");
        fill(&volume, root.as_fd(), Path::new("/data"), IdShift::NONE).unwrap();
        let meta = std::fs::metadata(&volume).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (7, 8, 0o1777));
        assert_eq!(
            std::fs::read_to_string(volume.join("sub/file")).unwrap(),
            "of the image"
        );
        let (of, copy) = (dir.path().join("root/data/sub/file"), volume.join("sub/file"));
        let (of, meta) = (of.metadata().unwrap(), copy.metadata().unwrap());
        assert_eq!((meta.mode(), meta.mtime_nsec()), (0o104_750, of.mtime_nsec()));
        let mut value = [0u8; 8];
        assert_eq!(
            fgetxattr(File::open(copy).unwrap(), "user.a", &mut value[..]).unwrap(),
            1
        );
        assert_eq!(std::fs::read_link(volume.join("link")).unwrap(), Path::new("/secret"));
        let pipe = statat(CWD, volume.join("pipe"), AtFlags::empty()).unwrap();
        assert_eq!(FileType::from_raw_mode(pipe.st_mode), FileType::Fifo);
        // What is written to the one is not seen in the other.
        std::fs::write(volume.join("new"), "").unwrap();
        assert!(!dir.path().join("root/data/new").exists());
    }

    #[test]
    fn a_directory_is_made_inside_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        symlink("../../..", dir.path().join("root/up")).unwrap();
        let make = |path: &str| Store::make_dir(root.as_fd(), Path::new(path), IdShift::NONE);
        for path in ["/data/sub", "/a/b/c", "/up/d", "/data/sub/deep"] {
            make(path).unwrap();
        }
        let at = |path: &str| dir.path().join("root").join(path);
        assert!(
            at("data/sub/file").exists() && at("a/b/c").is_dir() && at("d").is_dir() && at("data/sub/deep").is_dir()
        );
        assert!(!dir.path().join("d").exists(), "made outside");
        assert_eq!(make("/data/sub/file/x").unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn links_of_the_image_stay_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        symlink("../../../..", dir.path().join("root/up")).unwrap();
        symlink("/data", dir.path().join("root/alias")).unwrap();
        let at = |name: &str| dir.path().join(name);
        fill(&at("a"), root.as_fd(), Path::new("/alias"), IdShift::NONE).unwrap();
        assert!(at("a/sub/file").exists());
        fill(&at("b"), root.as_fd(), Path::new("/up"), IdShift::NONE).unwrap();
        assert!(at("b/data/sub/file").exists() && !at("b/secret").exists());
        fill(&at("c"), root.as_fd(), Path::new("/not/there"), IdShift::NONE).unwrap();
        assert_eq!(std::fs::read_dir(at("c")).unwrap().count(), 0);
        let error = fill(&at("d"), root.as_fd(), Path::new("/data/sub/file"), IdShift::NONE).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
    }
}
