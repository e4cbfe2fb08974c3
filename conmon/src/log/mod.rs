//! The container's log file in the format that the kubelet reads:
//! `<RFC 3339 with nanoseconds> stdout|stderr F|P <content>\n`.
//!
//! `cri` cuts bytes into lines, `file` owns the file (batching, full disks, reopening), `clock` writes the time.
//! A line reaches the file whole or is counted as lost: reopening therefore happens between lines by construction.

pub(crate) mod clock;
mod cri;
mod file;

pub(crate) use cri::{Lines, Stream};
pub(crate) use file::LogFile;
