//! The mount table, as far as it is needed here.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One row of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) at: PathBuf,
    pub(super) kind: String,
}

/// All rows, in order of mounting.
pub(super) fn parse(table: &str) -> Vec<Mount> {
    let row = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        Some(Mount {
            at: unescape(left.split(' ').nth(4)?),
            kind: right.split(' ').next()?.to_owned(),
        })
    };
    table.lines().filter_map(row).collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits (proc(5)).
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = (byte == b'\\').then(|| {
            text.get(at + 1..at + 4)
                .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        });
        match octal.flatten() {
            Some(value) => {
                out.push(value);
                at += 4;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_spaces_are_read_back() {
        let table = "1 0 0:4 net:[4026532001] /run/netns/a\\040b\\134c rw shared:5 - nsfs nsfs rw\nrubbish\n";
        assert_eq!(
            parse(table),
            [Mount {
                at: "/run/netns/a b\\c".into(),
                kind: "nsfs".into()
            }]
        );
    }
}
