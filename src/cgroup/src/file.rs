//! Control files: read and written whole, one system call each beside open and close.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::Error;

/// The buffer that one read of a control file goes to: `memory.stat` of v1 is the largest, below 4 KiB.
const LARGEST: usize = 16 * 1024;

const HALF_PAGE: usize = 2048;

/// Reads a control file.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    read_io(path).map_err(Error::at("read", path))
}

fn read_io(path: &Path) -> io::Result<String> {
    let fd = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [0u8; LARGEST];
    let mut text = Vec::new();
    loop {
        let count = rustix::io::read(&fd, &mut buffer)?;
        text.extend_from_slice(&buffer[..count]);
        // seq_file stops early only when the next record does not fit into its page: a read of half a page was all of it,
        // and the second read of most files can be spared.
        if count < HALF_PAGE {
            return String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into());
        }
    }
}

/// Reads a file that holds one number; "max" is `None`.
pub(crate) fn read_number(path: &Path) -> Result<Option<u64>, Error> {
    let text = read(path)?;
    match text.trim() {
        "max" => Ok(None),
        // v1 files that mean "unlimited" as -1 (pids.max says max, cfs_quota says -1).
        "-1" => Ok(None),
        digits => digits
            .parse()
            .map(Some)
            .map_err(|_| Error::invalid("control file", &text, "a number was expected")),
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

/// The value of `key` in lines of "key value".
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
