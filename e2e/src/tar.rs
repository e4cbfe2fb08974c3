//! A tar writer (ustar with pax records) for image layers, the hostile ones included: it
//! writes the names it is given and checks nothing.

use std::fmt::Write as _;

/// One entry's header fields, with what most entries want as default.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Name as written.
    pub path: &'a str,
    /// Type flag: `0` file, `1` hard link, `2` symlink, `3` char, `4` block, `5` directory, `6` fifo.
    pub kind: u8,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Target of a link.
    pub link: &'a str,
    /// Major and minor number.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: &'a [(&'a str, &'a [u8])],
    /// Contents of a file.
    pub data: &'a [u8],
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            path: "",
            kind: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            link: "",
            device: (0, 0),
            xattrs: &[],
            data: &[],
        }
    }
}

/// An archive being written.
#[derive(Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, mode 755.
    pub fn dir(&mut self, path: &str) -> &mut Self {
        self.add(&Entry {
            path,
            kind: b'5',
            mode: 0o755,
            ..Entry::default()
        })
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> &mut Self {
        self.add(&Entry {
            path,
            mode,
            data,
            ..Entry::default()
        })
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, link: &str) -> &mut Self {
        self.add(&Entry {
            path,
            kind: b'2',
            mode: 0o777,
            link,
            ..Entry::default()
        })
    }

    /// Adds a hard link.
    pub fn hardlink(&mut self, path: &str, link: &str) -> &mut Self {
        self.add(&Entry {
            path,
            kind: b'1',
            link,
            ..Entry::default()
        })
    }

    /// Adds any entry; long names and xattrs go into a pax record before it.
    pub fn add(&mut self, entry: &Entry<'_>) -> &mut Self {
        let mut pax = Vec::new();
        if entry.path.len() > 100 {
            pax_record(&mut pax, "path", entry.path.as_bytes());
        }
        if entry.link.len() > 100 {
            pax_record(&mut pax, "linkpath", entry.link.as_bytes());
        }
        for (name, value) in entry.xattrs {
            pax_record(&mut pax, &format!("SCHILY.xattr.{name}"), value);
        }
        if !pax.is_empty() {
            self.header(
                &Entry {
                    path: "pax",
                    kind: b'x',
                    ..Entry::default()
                },
                pax.len(),
            );
            self.body(&pax);
        }
        self.header(entry, entry.data.len());
        self.body(entry.data);
        self
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }

    fn header(&mut self, entry: &Entry<'_>, size: usize) {
        let mut block = [0_u8; 512];
        put(&mut block, 0, 100, entry.path.as_bytes());
        put(&mut block, 100, 8, format!("{:07o}", entry.mode).as_bytes());
        put(&mut block, 108, 8, format!("{:07o}", entry.uid).as_bytes());
        put(&mut block, 116, 8, format!("{:07o}", entry.gid).as_bytes());
        put(&mut block, 124, 12, format!("{size:011o}").as_bytes());
        // 2024-01-01: a fixed time, so that the digests are the same on every machine.
        put(&mut block, 136, 12, format!("{:011o}", 1_704_067_200).as_bytes());
        put(&mut block, 148, 8, b"        ");
        put(&mut block, 156, 1, &[entry.kind]);
        put(&mut block, 157, 100, entry.link.as_bytes());
        put(&mut block, 257, 8, b"ustar\x0000");
        put(&mut block, 329, 8, format!("{:07o}", entry.device.0).as_bytes());
        put(&mut block, 337, 8, format!("{:07o}", entry.device.1).as_bytes());
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut block, 148, 8, format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&block);
    }

    fn body(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }
}

fn put(block: &mut [u8; 512], at: usize, width: usize, value: &[u8]) {
    let length = value.len().min(width);
    block[at..at + length].copy_from_slice(&value[..length]);
}

/// `LEN KEY=VALUE\n`, where LEN counts its own digits.
fn pax_record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut total = rest + 1;
    while total != rest + total.to_string().len() {
        total = rest + total.to_string().len();
    }
    let mut head = String::new();
    if write!(head, "{total} {key}=").is_ok() {
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(value);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn another_tar_reads_what_is_written() {
        let mut tar = Tar::new();
        let long = format!("d/{}", "n".repeat(150));
        tar.dir("d/")
            .file("d/f", 0o640, b"hello")
            .symlink("d/s", "f")
            .hardlink("d/h", "d/f")
            .file(&long, 0o600, &[7; 700]);
        tar.add(&Entry {
            path: "d/x",
            xattrs: &[("user.a", b"1")],
            ..Entry::default()
        });
        let bytes = tar.finish();
        let mut child = Command::new("tar")
            .args(["tvf", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        for part in ["d/s -> f", "d/h link to d/f", long.as_str(), "-rw-r-----", "d/x"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}
