//! A faithful copy of a tree, with other owners where they are asked for.
//!
//! No link is followed: all that is read lies below the one directory, all that is written below the other. What is one
//! file under several names stays one. Ids are everywhere that the kernel keeps them: owners, file capabilities (whose
//! root is written down, capabilities(7)) and access control lists (acl(5)); the copy has them shifted. What belongs to an
//! id that is not mapped belongs to nobody afterwards, as through an idmapped mount: nothing of the host's may be left in
//! it. Capabilities for the root of such an id hold for no one, and are not in the copy.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, readlinkat, statat,
    symlinkat,
};
use rustix::io::Errno;
use spec::Kind;

use super::{IdShift, os};
use crate::error::{Error, sys};

pub(super) const LIST: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// No image may make us recurse without end.
const MAX_DEPTH: usize = 256;

/// Copies all that is in the directory `from` into the directory `to`, and its attributes.
pub(crate) fn copy(from: &OwnedFd, to: &OwnedFd, shift: IdShift) -> Result<(), Error> {
    let mut copier = Copier {
        top: to,
        shift,
        at: PathBuf::new(),
        first: HashMap::new(),
    };
    copier.tree(from, to, 0)
}

struct Copier<'a> {
    /// The copy's root.
    top: &'a OwnedFd,
    shift: IdShift,
    /// Where we are, below the root.
    at: PathBuf,
    /// Files with several names: where the first one was copied to.
    first: HashMap<(u64, u64), PathBuf>,
}

impl Copier<'_> {
    /// Copies a directory's entries, then its own attributes: the time comes last.
    fn tree(&mut self, from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("more than {MAX_DEPTH} directories deep"),
            ));
        }
        for entry in Dir::read_from(from).map_err(sys("list", "a directory"))? {
            let entry = entry.map_err(sys("list", "a directory"))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                self.at.push(os(name));
                let done = self.one(from, to, name, depth);
                done.map_err(|e| e.within(String::from_utf8_lossy(name).into_owned()))?;
                self.at.pop();
            }
        }
        let stat = rustix::fs::fstat(from).map_err(sys("stat", "a directory"))?;
        attributes(from.as_fd(), to.as_fd(), &stat, self.shift)
    }

    fn one(&mut self, from: &OwnedFd, to: &OwnedFd, name: &[u8], depth: usize) -> Result<(), Error> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(sys("stat", "it"))?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let made = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                match mkdirat(to, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(sys("mkdir", "it")(e)),
                }
                let below = openat(from, name, LIST, Mode::empty()).map_err(sys("open", "it"))?;
                let target = openat(to, name, LIST, Mode::empty()).map_err(sys("open", "its copy"))?;
                return self.tree(&below, &target, depth + 1);
            }
            FileType::RegularFile => return self.file(from, to, name, &stat),
            FileType::Symlink => {
                let link = readlinkat(from, name, Vec::new()).map_err(sys("read the link", "it"))?;
                symlinkat(link, to, name).map_err(sys("link", "its copy"))?;
                None
            }
            // A socket of the image has nobody behind it, but an entry it is.
            kind => {
                mknodat(to, name, kind, Mode::RUSR, stat.st_rdev).map_err(sys("mknod", "its copy"))?;
                Some(mode)
            }
        };
        let (uid, gid) = owner(&stat, self.shift)?;
        chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(sys("chown", "its copy"))?;
        match made {
            Some(mode) => chmodat(to, name, mode, AtFlags::empty()).map_err(sys("chmod", "its copy")),
            None => Ok(()),
        }
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &[u8], stat: &Stat) -> Result<(), Error> {
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.first.get(&key) {
                return linkat(self.top, first, to, name, AtFlags::empty()).map_err(sys("link", "its copy"));
            }
            self.first.insert(key, self.at.clone());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = File::from(openat(from, name, flags, Mode::empty()).map_err(sys("open", "it"))?);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR).map_err(sys("make", "its copy"))?;
        let mut target = File::from(target);
        std::io::copy(&mut &source, &mut target).map_err(|e| Error::io("copy", "it", e))?;
        attributes(source.as_fd(), target.as_fd(), stat, self.shift)
    }
}

fn owner(stat: &Stat, shift: IdShift) -> Result<(Uid, Gid), Error> {
    let (uid, gid, _) = shift.apply((stat.st_uid, stat.st_gid, 0))?;
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

/// Owner first: chown clears set-id bits and file capabilities.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat, shift: IdShift) -> Result<(), Error> {
    let (uid, gid) = owner(stat, shift)?;
    fchown(to, Some(uid), Some(gid)).map_err(sys("chown", "its copy"))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(sys("chmod", "its copy"))?;
    let mut names = vec![0u8; 64 << 10];
    let size = match flistxattr(from, &mut names[..]) {
        Ok(size) => size,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(sys("list attributes of", "it")(e)),
    };
    for name in names[..size].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0u8; 64 << 10];
        let size = fgetxattr(from, name, &mut value[..]).map_err(sys("read an attribute of", "it"))?;
        value.truncate(size);
        let Some(value) = shifted(name, value, shift)? else {
            continue;
        };
        match fsetxattr(to, name, &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(sys("set an attribute of", "its copy")(e)),
        }
    }
    let time = |tv_sec: i64, nanos: u64| Timespec {
        tv_sec,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    futimens(to, &times).map_err(sys("set the time of", "its copy"))
}

/// The value of an attribute for the ids of the copy, if it has one.
fn shifted(name: &[u8], value: Vec<u8>, shift: IdShift) -> Result<Option<Vec<u8>>, Error> {
    match name {
        _ if shift == IdShift::NONE => Ok(Some(value)),
        b"security.capability" => capability(value, shift),
        b"system.posix_acl_access" | b"system.posix_acl_default" => access_list(value, shift).map(Some),
        _ => Ok(Some(value)),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// `struct vfs_ns_cap_data` (linux/capability.h): version 3 says whose root the capabilities are good for, which is the
/// host's in version 2.
fn capability(mut value: Vec<u8>, shift: IdShift) -> Result<Option<Vec<u8>>, Error> {
    const VERSION: u32 = 0xff00_0000;
    const SECOND: u32 = 0x0200_0000;
    const THIRD: u32 = 0x0300_0000;
    let magic = word(&value, 0).unwrap_or_default();
    let root = match (magic & VERSION, value.len()) {
        (SECOND, 20) => 0,
        (THIRD, 24) => word(&value, 20).unwrap_or_default(),
        _ => {
            let why = "its capabilities have a form that is not known";
            return Err(Error::new(Kind::InvalidArgument, why));
        }
    };
    if root >= shift.size {
        return Ok(None);
    }
    let (root, ..) = shift.apply((root, 0, 0))?;
    value.truncate(20);
    value[..4].copy_from_slice(&(magic & !VERSION | THIRD).to_le_bytes());
    value.extend(root.to_le_bytes());
    Ok(Some(value))
}

/// `struct posix_acl_xattr_entry` (linux/posix_acl_xattr.h), after a version of four bytes: tag, permissions, id.
fn access_list(mut value: Vec<u8>, shift: IdShift) -> Result<Vec<u8>, Error> {
    const USER: [u8; 2] = [0x02, 0];
    const GROUP: [u8; 2] = [0x08, 0];
    for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        let id = word(entry, 4).unwrap_or_default();
        let to = match [entry[0], entry[1]] {
            USER => shift.apply((id, 0, 0))?.0,
            GROUP => shift.apply((0, id, 0))?.1,
            _ => continue,
        };
        entry[4..].copy_from_slice(&to.to_le_bytes());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::super::NOBODY;
    use super::*;
    use rustix::fs::CWD;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    use std::path::Path;

    const SHIFT: IdShift = IdShift {
        uid: 700_000,
        gid: 800_000,
        size: 65_536,
    };

    fn open(path: &Path) -> OwnedFd {
        openat(CWD, path, LIST, Mode::empty()).unwrap()
    }

    fn copied(from: &Path, to: &Path, shift: IdShift) -> Result<(), Error> {
        std::fs::create_dir_all(to).unwrap();
        copy(&open(from), &open(to), shift)
    }

    #[test]
    fn owners_are_shifted_and_names_of_one_file_stay_together() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::create_dir_all(from.join("d/deep")).unwrap();
        std::fs::write(from.join("d/file"), "content").unwrap();
        chown(from.join("d/file"), Some(7), Some(8)).unwrap();
        std::fs::set_permissions(from.join("d/file"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        std::fs::hard_link(from.join("d/file"), from.join("d/deep/same")).unwrap();
        symlink("/etc", from.join("link")).unwrap();
        let to = dir.path().join("to");
        copied(&from, &to, SHIFT).unwrap();
        let of = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap();
        let file = of("d/file");
        assert_eq!((file.uid(), file.gid(), file.mode()), (700_007, 800_008, 0o104_755));
        assert_eq!(file.ino(), of("d/deep/same").ino());
        for name in ["", "d", "d/deep", "link"] {
            assert_eq!((of(name).uid(), of(name).gid()), (700_000, 800_000), "{name:?}");
        }
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("/etc"));
        let below = std::fs::metadata(from.join("d/file")).unwrap();
        assert_eq!((below.uid(), below.nlink()), (7, 2));
    }

    #[test]
    fn what_is_not_mapped_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::create_dir(&from).unwrap();
        for (name, uid, gid) in [("user", 65_536, 7), ("group", 7, 65_536), ("last", 65_535, 65_535)] {
            std::fs::write(from.join(name), "").unwrap();
            chown(from.join(name), Some(uid), Some(gid)).unwrap();
        }
        symlink("user", from.join("link")).unwrap();
        std::os::unix::fs::lchown(from.join("link"), Some(1 << 31), Some(1 << 31)).unwrap();
        let to = dir.path().join("to");
        copied(&from, &to, SHIFT).unwrap();
        for (name, uid, gid) in [
            ("user", NOBODY, 800_007),
            ("group", 700_007, NOBODY),
            ("last", 765_535, 865_535),
            ("link", NOBODY, NOBODY),
        ] {
            let found = std::fs::symlink_metadata(to.join(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), (uid, gid), "{name}");
        }
        // Where nobody is somebody there is nobody to take.
        let with_nobody = IdShift {
            uid: NOBODY - 10,
            gid: 0,
            size: 20,
        };
        let error = copied(&from, &dir.path().join("other"), with_nobody).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains("does not map"), "{error}");
    }

    #[test]
    fn capabilities_are_those_of_the_shifted_root() {
        let second: Vec<u8> = [0x0200_0001_u32, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
        let third = capability(second.clone(), SHIFT).unwrap().unwrap();
        let wanted = [0x0300_0001_u32, 1 << 10, 0, 0, 0, 700_000]
            .map(u32::to_le_bytes)
            .concat();
        assert_eq!(third, wanted);
        let third = [0x0300_0001_u32, 1 << 10, 0, 0, 0, 5].map(u32::to_le_bytes).concat();
        assert_eq!(word(&capability(third, SHIFT).unwrap().unwrap(), 20), Some(700_005));
        let nobodys = [0x0300_0001_u32, 1 << 10, 0, 0, 0, 65_536]
            .map(u32::to_le_bytes)
            .concat();
        assert_eq!(capability(nobodys, SHIFT).unwrap(), None);
        assert!(capability(vec![1; 20], SHIFT).is_err() && capability(vec![], SHIFT).is_err());
        assert_eq!(
            shifted(b"security.capability", second.clone(), IdShift::NONE).unwrap(),
            Some(second.clone())
        );
        // The kernel takes it.
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::create_dir(&from).unwrap();
        let file = File::create(from.join("file")).unwrap();
        fsetxattr(&file, "security.capability", &second, XattrFlags::empty()).unwrap();
        copied(&from, &dir.path().join("to"), SHIFT).unwrap();
        let mut value = [0; 64];
        let file = File::open(dir.path().join("to/file")).unwrap();
        let size = fgetxattr(&file, "security.capability", &mut value[..]).unwrap();
        assert_eq!(value[..size], wanted);
    }

    #[test]
    fn access_lists_name_the_shifted_ids() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[5, 0], &id.to_le_bytes()].concat();
        let list = |user: u32, group: u32| {
            let all = [entry(1, u32::MAX), entry(2, user), entry(8, group), entry(4, u32::MAX)];
            [&2_u32.to_le_bytes()[..], &all.concat()].concat()
        };
        assert_eq!(access_list(list(5, 6), SHIFT).unwrap(), list(700_005, 800_006));
        assert_eq!(access_list(list(70_000, 6), SHIFT).unwrap(), list(NOBODY, 800_006));
        assert_eq!(access_list(vec![], SHIFT).unwrap(), Vec::<u8>::new());
    }
}
