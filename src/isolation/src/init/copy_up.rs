//! `tmpcopyup`: a tmpfs begins with what the image has in its place, an option of the OCI specification that a runtime
//! may know (config.md, "Linux mount options").
//!
//! All that is read lies below one descriptor, all that is written below the other, and no link is followed. Owners and
//! modes are kept; names of one file become files of their own, and extended attributes stay behind, as with runc.
//! There are bounds, because on cgroup v1 the copy is made before the container's cgroup is entered: its memory would be
//! taken from the monitors. What is larger belongs into a volume.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chmodat, chownat, fchmod, fchown, mkdirat, mknodat, openat,
    readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

use crate::Error;

/// Bytes of all files.
const MOST_BYTES: u64 = 32 << 20;
/// Files, directories and links.
const MOST_ENTRIES: u32 = 10_000;
/// Directories below one another; each holds two descriptors.
const DEEPEST: usize = 64;

const LIST: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What may still be copied.
struct Left {
    bytes: u64,
    entries: u32,
}

enum Stop {
    System(Errno),
    Io(io::Error),
    Bound(String),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

/// Copies what is in the directory `from` into the new file system `to`; of the directory itself the attributes that
/// `options` leave open.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    options: &[(String, Option<String>)],
    object: &str,
) -> Result<(), Error> {
    let given = |name: &str| options.iter().any(|(key, _)| key == name);
    let go = || {
        // The descriptors are of the kind that only names a place.
        let (from, to) = (
            openat(from, ".", LIST, Mode::empty())?,
            openat(to, ".", LIST, Mode::empty())?,
        );
        let mut left = Left {
            bytes: MOST_BYTES,
            entries: MOST_ENTRIES,
        };
        tree(&from, &to, &mut left, 0)?;
        let stat = rustix::fs::fstat(&from)?;
        let uid = (!given("uid")).then(|| Uid::from_raw(stat.st_uid));
        let gid = (!given("gid")).then(|| Gid::from_raw(stat.st_gid));
        fchown(&to, uid, gid)?;
        if !given("mode") {
            fchmod(&to, mode(&stat))?;
        }
        Ok(())
    };
    go().map_err(|stop| match stop {
        Stop::System(errno) => Error::sys("copy what is below", object)(errno),
        Stop::Io(error) => Error::sys("copy what is below", object)(error),
        Stop::Bound(why) => Error::state(object, format!("tmpcopyup: the image has {why} there; use a volume")),
    })
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn tree(from: &OwnedFd, to: &OwnedFd, left: &mut Left, depth: usize) -> Result<(), Stop> {
    if depth > DEEPEST {
        return Err(Stop::Bound(format!(
            "more than {DEEPEST} directories below one another"
        )));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            one(from, to, name, (left, depth))?;
        }
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr, (left, depth): (&mut Left, usize)) -> Result<(), Stop> {
    let fewer = left.entries.checked_sub(1);
    left.entries = fewer.ok_or_else(|| Stop::Bound(format!("more than {MOST_ENTRIES} files")))?;
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let below = openat(to, name, LIST, Mode::empty())?;
            tree(&openat(from, name, LIST, Mode::empty())?, &below, left, depth + 1)?;
        }
        FileType::RegularFile => file(from, to, name, left)?,
        FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
        kind => mknodat(to, name, kind, Mode::RUSR, stat.st_rdev)?,
    }
    // The owner first: a change of it takes set-id bits away.
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        chmodat(to, name, mode(&stat), AtFlags::empty())?;
    }
    Ok(())
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &CStr, left: &mut Left) -> Result<(), Stop> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = File::from(openat(from, name, flags, Mode::empty())?);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut target = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
    let copied = io::copy(&mut io::Read::take(&source, left.bytes + 1), &mut target).map_err(Stop::Io)?;
    let fewer = left.bytes.checked_sub(copied);
    left.bytes = fewer.ok_or_else(|| Stop::Bound(format!("more than {} MiB", MOST_BYTES >> 20)))?;
    Ok(())
}
