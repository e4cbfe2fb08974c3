//! Paths below a directory that somebody else controls.
//!
//! A [`Root`] is one directory descriptor; every lookup below it is one `openat2` with `RESOLVE_IN_ROOT` and
//! `RESOLVE_NO_MAGICLINKS`: links resolve as they would after chroot, `/proc/self/fd/N` resolves to nothing, and
//! a component swapped meanwhile cannot lead out. What comes back is a descriptor; callers verify and act on it,
//! never on the path again.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::path::Arg;

/// How links on the way are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Resolved inside the root, also in the last component.
    Follow,
    /// Resolved inside the root on the way; the last component is opened as it is.
    NotLast,
    /// Any link anywhere is ELOOP.
    Refuse,
}

/// A directory that no path given to this handle can leave.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// The directory `path` of the host.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::openat(CWD, path.as_ref(), flags, Mode::empty())?,
        })
    }

    /// The directory behind `fd`, which may be an `O_PATH` or a detached mount's descriptor.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The descriptor itself.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Opens `path` below the root with `flags` (close-on-exec is added).
    ///
    /// # Errors
    /// What openat2(2) says.
    pub fn open_with(&self, path: impl AsRef<Path>, flags: OFlags, links: Links) -> io::Result<OwnedFd> {
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut flags = flags | OFlags::CLOEXEC;
        match links {
            Links::Follow => {}
            Links::NotLast => flags |= OFlags::NOFOLLOW,
            Links::Refuse => resolve |= ResolveFlags::NO_SYMLINKS,
        }
        Ok(openat2(&self.fd, path.as_ref(), flags, resolve)?)
    }

    /// An `O_PATH` descriptor of what `path` is.
    ///
    /// # Errors
    /// What openat2(2) says.
    pub fn open_path(&self, path: impl AsRef<Path>, links: Links) -> io::Result<OwnedFd> {
        self.open_with(path, OFlags::PATH, links)
    }

    /// The directory `path`, made with its parents (`mode`, before the umask) where it does not exist. With
    /// [`Links::Follow`] a link that dangles has its target made, inside the root.
    ///
    /// # Errors
    /// `NotADirectory`; ELOOP for a link with [`Links::Refuse`], and for links in circles.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32, links: Links) -> io::Result<OwnedFd> {
        self.mkdir_all_within(path.as_ref(), mode, links, MAX_LINKS)
    }

    fn mkdir_all_within(&self, path: &Path, mode: u32, links: Links, left: u32) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match self.open_with(path, flags, links) {
            Err(error) if missing(&error) => {}
            other => return other,
        }
        let mut done = PathBuf::from("/");
        let mut dir = self.open_with("/", flags, links)?;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                // What is before it exists by now, so the kernel says what it is.
                Component::ParentDir => OsStr::new(".."),
                _ => continue,
            };
            let next = done.join(name);
            dir = match self.open_with(&next, flags, links) {
                Err(error) if missing(&error) => match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode)) {
                    Ok(()) => self.open_with(&next, flags, links)?,
                    Err(rustix::io::Errno::EXIST) => match self.open_with(&next, flags, links) {
                        Err(error) if missing(&error) && links == Links::Follow => {
                            self.mkdir_all_within(&target_of(&dir, &done, name, left)?, mode, links, left - 1)?
                        }
                        other => other?,
                    },
                    Err(error) => return Err(error.into()),
                },
                other => other?,
            };
            done = next;
        }
        Ok(dir)
    }

    /// The directory that holds the last component of `path`, made with its parents where it does not exist, and
    /// that component.
    ///
    /// # Errors
    /// As [`Root::mkdir_all`]; `InvalidInput` for a path without a last component (`/`, `a/..`).
    pub fn parent<'a>(&self, path: &'a Path, mode: u32, links: Links) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let dir = self.mkdir_all(path.parent().unwrap_or_else(|| Path::new("/")), mode, links)?;
        Ok((dir, name))
    }

    /// An `O_PATH` descriptor of `path`, made as an empty file (with its parents) where it does not exist: the
    /// target of a bind mount of something that is not a directory. Links as in [`Root::mkdir_all`].
    ///
    /// # Errors
    /// As [`Root::mkdir_all`]; `IsADirectory` where a directory is there.
    pub fn make_file(&self, path: impl AsRef<Path>, mode: u32, links: Links) -> io::Result<OwnedFd> {
        let mut path = path.as_ref().to_owned();
        let mut left = MAX_LINKS;
        let found = loop {
            match self.open_path(&path, links) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => break other?,
            }
            let (dir, name) = self.parent(&path, 0o755, links)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(mode)) {
                Ok(_) => break self.open_path(&path, links)?,
                // A dangling link, as images have for /etc/resolv.conf.
                Err(rustix::io::Errno::EXIST) if links == Links::Follow => {
                    let above = path.parent().unwrap_or_else(|| Path::new("/"));
                    path = target_of(&dir, above, name, left)?;
                    left -= 1;
                }
                Err(error) => return Err(error.into()),
            }
        };
        if file_type(found.as_fd())? == FileType::Directory {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        Ok(found)
    }

    /// The content of the regular file `path`.
    ///
    /// # Errors
    /// What openat2(2) says; `InvalidInput` for anything but a regular file; `FileTooLarge` above `most` bytes.
    pub fn read(&self, path: impl AsRef<Path>, most: usize) -> io::Result<Vec<u8>> {
        // NONBLOCK: a fifo in the place of the file must not hold us up.
        let fd = self.open_with(path, OFlags::RDONLY | OFlags::NONBLOCK, Links::Follow)?;
        if file_type(fd.as_fd())? != FileType::RegularFile {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(
            &mut io::Read::take(std::fs::File::from(fd), most as u64 + 1),
            &mut bytes,
        )?;
        if bytes.len() > most {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        Ok(bytes)
    }
}

/// As many links as the kernel follows on one way (MAXSYMLINKS).
const MAX_LINKS: u32 = 40;

/// Where the link `name` in `dir` (which is `above` in the root) points, as a path in the root; ELOOP when none are
/// `left`.
fn target_of(dir: &OwnedFd, above: &Path, name: &OsStr, left: u32) -> io::Result<PathBuf> {
    if left == 0 {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
    Ok(above.join(OsStr::from_bytes(target.as_bytes())))
}

/// openat2(2) of what is there, again while a mount or a rename anywhere on the host disturbs it: EAGAIN at each `..` on the
/// way, which a link may bring. Bounded.
///
/// # Errors
/// What openat2(2) says.
pub fn openat2(
    dir: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, rustix::io::Errno> {
    let mut left = 1000;
    loop {
        match rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) if left > 0 => left -= 1,
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

/// What kind of file is behind `fd`.
///
/// # Errors
/// What fstat(2) says.
pub fn file_type(fd: BorrowedFd<'_>) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Whether `stat` is the character device `major`:`minor`.
#[must_use]
pub fn is_char_device(stat: &Stat, major: u32, minor: u32) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && rustix::fs::major(stat.st_rdev) == major
        && rustix::fs::minor(stat.st_rdev) == minor
}

/// `path` without `.`, doubled slashes and `..`, as an absolute path: for comparing destinations as written.
/// Never for opening: what a component is, only the kernel knows.
#[must_use]
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// Whether `path` holds a NUL byte, which no system call takes.
#[must_use]
pub fn has_nul(path: &Path) -> bool {
    path.as_os_str().as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("bulkhead-path-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("root")).unwrap();
            fs::create_dir_all(dir.join("canary")).unwrap();
            Self(dir)
        }

        fn root(&self) -> Root {
            Root::open(self.0.join("root")).unwrap()
        }

        fn canary_is_empty(&self) -> bool {
            fs::read_dir(self.0.join("canary")).unwrap().next().is_none()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn directories_are_made_inside_through_absolute_and_climbing_links() {
        let dir = Dir::new("mkdir");
        symlink(dir.0.join("canary"), dir.0.join("root/abs")).unwrap();
        symlink("../../../../canary", dir.0.join("root/up")).unwrap();
        // Both links point at places that do not exist inside the root: made there, and nothing outside.
        let root = dir.root();
        root.mkdir_all("abs/x", 0o755, Links::Follow).unwrap();
        let inside = dir.0.strip_prefix("/").unwrap().join("canary/x");
        assert!(dir.0.join("root").join(inside).is_dir());
        assert!(dir.canary_is_empty());
        let error = root.mkdir_all("abs/y", 0o755, Links::Refuse).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        fs::create_dir(dir.0.join("root/canary")).unwrap();
        dir.root().mkdir_all("up/x/y", 0o755, Links::Follow).unwrap();
        assert!(dir.0.join("root/canary/x/y").is_dir());
        assert!(dir.canary_is_empty());
    }

    #[test]
    fn links_are_refused_where_asked() {
        let dir = Dir::new("refuse");
        fs::create_dir(dir.0.join("root/real")).unwrap();
        symlink("real", dir.0.join("root/link")).unwrap();
        let root = dir.root();
        assert!(root.mkdir_all("link", 0o755, Links::Follow).is_ok());
        let error = root.mkdir_all("link", 0o755, Links::Refuse).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        let error = root.make_file("link/file", 0o644, Links::Refuse).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn files_are_made_with_parents_and_never_through_a_dangling_link() {
        let dir = Dir::new("file");
        let root = dir.root();
        root.make_file("a/b/file", 0o644, Links::Follow).unwrap();
        assert!(dir.0.join("root/a/b/file").is_file());
        symlink(dir.0.join("canary/new"), dir.0.join("root/dangling")).unwrap();
        assert!(root.make_file("dangling", 0o644, Links::Refuse).is_err());
        root.make_file("dangling", 0o644, Links::Follow).unwrap();
        let inside = dir.0.strip_prefix("/").unwrap().join("canary/new");
        assert!(dir.0.join("root").join(inside).is_file());
        assert!(dir.canary_is_empty());
        symlink("../run/resolve/stub", dir.0.join("root/a/resolv.conf")).unwrap();
        root.make_file("a/resolv.conf", 0o644, Links::Follow).unwrap();
        assert!(dir.0.join("root/run/resolve/stub").is_file());
        symlink("circle", dir.0.join("root/circle")).unwrap();
        let error = root.make_file("circle", 0o644, Links::Follow).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        assert_eq!(
            root.make_file("a", 0o644, Links::Follow).unwrap_err().kind(),
            io::ErrorKind::IsADirectory
        );
    }

    #[test]
    fn dot_dot_ends_at_the_root() {
        let dir = Dir::new("dotdot");
        dir.root().mkdir_all("a/../../b", 0o755, Links::Follow).unwrap();
        dir.root().mkdir_all("../../c", 0o755, Links::Follow).unwrap();
        assert!(dir.0.join("root/b").is_dir() && dir.0.join("root/c").is_dir());
        assert!(!dir.0.join("b").exists() && !dir.0.join("c").exists());
    }

    #[test]
    fn magic_links_lead_nowhere() {
        let root = Root::open("/proc").unwrap();
        assert!(root.open_path("self/exe", Links::Follow).is_err());
        assert!(root.open_path("self/cwd/etc", Links::Follow).is_err());
    }

    #[test]
    fn reading_is_bounded_and_of_regular_files() {
        let dir = Dir::new("read");
        fs::write(dir.0.join("root/file"), b"12345").unwrap();
        rustix::fs::mknodat(CWD, dir.0.join("root/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let root = dir.root();
        assert_eq!(root.read("file", 5).unwrap(), b"12345");
        assert_eq!(root.read("file", 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(root.read("fifo", 4).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn clean_is_lexical() {
        assert_eq!(clean(Path::new("/a/./b/../c//d/")), Path::new("/a/c/d"));
        assert_eq!(clean(Path::new("../../x")), Path::new("/x"));
    }

    #[test]
    fn renames_elsewhere_do_not_disturb() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = Dir::new("renames");
        let root = rustix::fs::open(dir.0.join("root"), OFlags::PATH, Mode::empty()).unwrap();
        fs::create_dir_all(dir.0.join("root/a")).unwrap();
        let (one, two) = (dir.0.join("canary/one"), dir.0.join("canary/two"));
        fs::write(&one, "").unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    fs::rename(&one, &two).unwrap();
                    fs::rename(&two, &one).unwrap();
                }
            });
            let opened = (0..20_000)
                .try_for_each(|_| openat2(&root, "a/../a/../a", OFlags::PATH, ResolveFlags::IN_ROOT).map(drop));
            done.store(true, Ordering::Relaxed);
            opened.unwrap();
        });
    }
}
