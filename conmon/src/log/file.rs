//! The log file. Records are gathered and written with one write(2) for many.
//!
//! A disk that is full (or read-only, or broken) must never stop the container: its output is read on and thrown
//! away, whole records counted, and when writing works again a record says what is missing. The one record that the
//! failure cut in two is remembered and finished first, so that the file never holds half a line.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use super::clock::{Clock, STAMP};
use crate::error::Error;

/// Written out when this much is gathered.
const BATCH: usize = 128 * 1024;

/// A log file, or none: then everything is thrown away.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: Option<OwnedFd>,
    /// Whole records, not yet written. Empty between two turns of the event loop.
    batch: Vec<u8>,
    /// The rest of a record of which the beginning is in the file.
    torn: Vec<u8>,
    lost: Lost,
}

#[derive(Debug, Default)]
struct Lost {
    records: u64,
    bytes: u64,
}

impl LogFile {
    /// Opens (creates, appends to) the file at `path`; an empty path is no file.
    pub(crate) fn open(path: &str) -> Result<Self, Error> {
        let path = PathBuf::from(path);
        let file = if path.as_os_str().is_empty() {
            None
        } else {
            Some(open(&path)?)
        };
        Ok(Self {
            path,
            file,
            batch: Vec::new(),
            torn: Vec::new(),
            lost: Lost::default(),
        })
    }

    /// Whether there is a file.
    pub(crate) fn is_discarding(&self) -> bool {
        self.file.is_none()
    }

    /// Where records are appended; [`LogFile::relieve`] is to be called between two of them.
    pub(crate) fn batch(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.batch)
    }

    /// Writes `batch` out where it has grown large.
    pub(crate) fn relieve(&mut self, batch: &mut Vec<u8>, clock: &mut Clock) {
        if batch.len() >= BATCH {
            self.write(batch, clock);
            batch.clear();
        }
    }

    /// Writes what is left of `batch` and keeps its memory for the next one.
    pub(crate) fn flush(&mut self, mut batch: Vec<u8>, clock: &mut Clock) {
        self.write(&batch, clock);
        batch.clear();
        self.batch = batch;
    }

    /// Gives memory back when nothing is going on.
    pub(crate) fn rest(&mut self) {
        self.batch = Vec::new();
    }

    /// Opens the path again, after somebody renamed the file away. Everything until now is in the old one. When the new one
    /// cannot be opened, the old one stays in use.
    pub(crate) fn reopen(&mut self, clock: &mut Clock) -> Result<(), Error> {
        if self.file.is_none() {
            return Ok(());
        }
        let fresh = open(&self.path)?;
        self.write(&[], clock);
        if !self.torn.is_empty() {
            // The old file will not take it any more; in the new one half a record would be rubbish.
            self.torn = Vec::new();
            self.lost.records += 1;
        }
        self.file = Some(fresh);
        Ok(())
    }

    fn write(&mut self, records: &[u8], clock: &mut Clock) {
        let Some(file) = self.file.take() else { return };
        if self.write_before(&file, records, clock) {
            let written = write_some(&file, records);
            if written < records.len() {
                self.split(records, written);
            }
        } else {
            self.lose(records);
        }
        self.file = Some(file);
    }

    /// What must come before new records: the rest of a torn one and the record about lost ones. False: still no room.
    fn write_before(&mut self, file: &OwnedFd, records: &[u8], clock: &mut Clock) -> bool {
        if !self.torn.is_empty() {
            let written = write_some(file, &self.torn);
            self.torn.drain(..written);
            if !self.torn.is_empty() {
                return false;
            }
            self.torn = Vec::new();
        }
        if self.lost.records == 0 {
            return true;
        }
        let (count, bytes) = (self.lost.records, self.lost.bytes);
        // Not later than the record behind it: times in a log do not go back.
        let stamp: [u8; STAMP] = records.first_chunk().copied().unwrap_or_else(|| clock.now());
        let mut gap = stamp.to_vec();
        gap.extend_from_slice(
            format!(" stderr F [bulkhead: {count} log records ({bytes} bytes) could not be written and are lost]\n")
                .as_bytes(),
        );
        let written = write_some(file, &gap);
        if written == 0 {
            return false;
        }
        self.lost = Lost::default();
        self.torn = gap.split_off(written);
        self.torn.is_empty()
    }

    /// After a short write: the record at the cut is to be finished later, those behind it are lost.
    fn split(&mut self, records: &[u8], written: usize) {
        let is_between = written == 0 || records[written - 1] == b'\n';
        let rest = &records[written..];
        let end = if is_between {
            0
        } else {
            rest.iter()
                .position(|byte| *byte == b'\n')
                .map_or(rest.len(), |at| at + 1)
        };
        self.torn = rest[..end].to_vec();
        self.lose(&rest[end..]);
    }

    fn lose(&mut self, records: &[u8]) {
        self.lost.records += records.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.lost.bytes += records.len() as u64;
    }
}

/// Writes as much as the file takes: less than all only after an error.
fn write_some(file: &OwnedFd, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(file, &bytes[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(rustix::io::Errno::INTR) => {}
            // ENOSPC, EDQUOT, EIO, EROFS, EPERM (chattr): whatever it is, the container does not wait for it.
            Err(_) => break,
        }
    }
    written
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    // Non-blocking, so that a fifo in the log's place answers at once (ENXIO) instead of stopping the monitor.
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::APPEND
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    let at = |op| move |errno: rustix::io::Errno| Error::io(op, path.display(), errno.into());
    let file = openat(CWD, path, flags, Mode::from_raw_mode(0o640)).map_err(at("open the log"))?;
    let stat = fstat(&file).map_err(at("stat the log"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::state(
            spec::Kind::InvalidArgument,
            format!("the log {} is no regular file", path.display()),
        ));
    }
    Ok(file)
}
