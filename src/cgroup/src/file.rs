//! Control files: read and written whole, one system call each beside open and close.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::Error;

/// The room for one read of a control file: `memory.stat` of v1 is the largest, below this.
const LARGEST: usize = 4096;

const HALF_PAGE: usize = 2048;

/// Reads a control file.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let read = || read_whole(&open(CWD, path)?);
    read().map_err(Error::at("read", path))
}

/// Opens a control file in or below the directory `at`.
pub(crate) fn open(at: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(at, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Reads an open control file from its beginning, as it is now.
pub(crate) fn read_whole(file: &OwnedFd) -> io::Result<String> {
    let mut text = Vec::new();
    loop {
        text.reserve(LARGEST);
        let at = text.len() as u64;
        let count = rustix::io::pread(file, spare_capacity(&mut text), at)?;
        // seq_file stops early only when the next record does not fit into its page: a read of half a page was all of it,
        // and the second read of most files can be spared.
        if count < HALF_PAGE {
            return String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into());
        }
    }
}

/// Reads a file that holds one number; "max" is `None`.
pub(crate) fn read_number(path: &Path) -> Result<Option<u64>, Error> {
    number(&read(path)?)
}

/// The number that a file of one number holds; "max" is `None`.
pub(crate) fn number(text: &str) -> Result<Option<u64>, Error> {
    match text.trim() {
        "max" => Ok(None),
        // v1 files that mean "unlimited" as -1 (pids.max says max, cfs_quota says -1).
        "-1" => Ok(None),
        digits => digits
            .parse()
            .map(Some)
            .map_err(|_| Error::invalid("control file", text, "a number was expected")),
    }
}

/// Writes a control file.
pub(crate) fn write(path: &Path, value: &str) -> Result<(), Error> {
    write_io(path, value).map_err(|source| Error::Write {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

fn write_io(path: &Path, value: &str) -> io::Result<()> {
    let fd = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    loop {
        match rustix::io::write(&fd, value.as_bytes()) {
            Ok(_) => return Ok(()),
            // cgroup.procs answers EINTR when the move races with an exec of the process.
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The values of `keys` in lines of "key value".
pub(crate) fn fields<const N: usize>(text: &str, keys: [&str; N]) -> [Option<u64>; N] {
    let mut values = [None; N];
    for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        if let Some(at) = keys.iter().position(|wanted| *wanted == key) {
            values[at] = values[at].or_else(|| value.trim().parse().ok());
        }
    }
    values
}

/// The value of `key` in lines of "key value".
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
