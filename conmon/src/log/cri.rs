//! Bytes to log lines.
//!
//! A line that is not finished is kept (at most `max` bytes) until its newline comes, so that a line which arrives in
//! several reads is one record. Longer ones are cut: `P` for every fragment but the last. What is left when the stream
//! ends has no newline of its own: it is written as `P`, with one (containerd does the same).

use super::clock::STAMP;

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn tag(self, is_full: bool) -> &'static [u8; 10] {
        match (self, is_full) {
            (Self::Stdout, true) => b" stdout F ",
            (Self::Stdout, false) => b" stdout P ",
            (Self::Stderr, true) => b" stderr F ",
            (Self::Stderr, false) => b" stderr P ",
        }
    }
}

/// One stream's way into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    max: usize,
    /// The beginning of a line, without its end; holds no memory when empty.
    pending: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: Stream, max: usize) -> Self {
        Self {
            stream,
            max,
            pending: Vec::new(),
        }
    }

    /// Appends what `bytes` completes to `out`, as records; each call of `full` comes between two records.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        stamp: &[u8; STAMP],
        out: &mut Vec<u8>,
        mut full: impl FnMut(&mut Vec<u8>),
    ) {
        while let Some(end) = newline(bytes) {
            let (mut line, rest) = (&bytes[..end], &bytes[end + 1..]);
            while self.pending.len() + line.len() > self.max {
                line = self.fragment(line, stamp, out);
                full(out);
            }
            self.record(line, true, stamp, out);
            full(out);
            bytes = rest;
        }
        while self.pending.len() + bytes.len() > self.max {
            bytes = self.fragment(bytes, stamp, out);
            full(out);
        }
        self.pending.extend_from_slice(bytes);
    }

    /// The end of the stream.
    pub(crate) fn finish(&mut self, stamp: &[u8; STAMP], out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.record(&[], false, stamp, out);
        }
    }

    /// A partial record of exactly `max` bytes; returns what is left of `line`.
    fn fragment<'a>(&mut self, line: &'a [u8], stamp: &[u8; STAMP], out: &mut Vec<u8>) -> &'a [u8] {
        let (part, rest) = line.split_at(self.max - self.pending.len());
        self.record(part, false, stamp, out);
        rest
    }

    fn record(&mut self, end: &[u8], is_full: bool, stamp: &[u8; STAMP], out: &mut Vec<u8>) {
        out.reserve(STAMP + 10 + self.pending.len() + end.len() + 1);
        out.extend_from_slice(stamp);
        out.extend_from_slice(self.stream.tag(is_full));
        out.extend_from_slice(&self.pending);
        out.extend_from_slice(end);
        out.push(b'\n');
        if !self.pending.is_empty() {
            self.pending = Vec::new();
        }
    }
}

/// The first newline, eight bytes at a time.
fn newline(bytes: &[u8]) -> Option<usize> {
    const NEWLINES: u64 = 0x0a0a_0a0a_0a0a_0a0a;
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        // A byte that is zero borrows from its high bit; the lowest such byte is always a true one.
        let zero_where_newline = u64::from_le_bytes(*word) ^ NEWLINES;
        let found = zero_where_newline.wrapping_sub(LOW) & !zero_where_newline & HIGH;
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    rest.iter()
        .position(|byte| *byte == b'\n')
        .map(|at| words.len() * 8 + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP_TEXT: &[u8; STAMP] = b"2026-11-20T09:01:59.123456789Z";

    fn log(max: usize, parts: &[&[u8]]) -> String {
        let mut lines = Lines::new(Stream::Stdout, max);
        let mut out = Vec::new();
        for part in parts {
            lines.push(part, STAMP_TEXT, &mut out, |_| {});
        }
        lines.finish(STAMP_TEXT, &mut out);
        assert_eq!(lines.pending.capacity(), 0);
        String::from_utf8(out)
            .unwrap()
            .replace("2026-11-20T09:01:59.123456789Z stdout ", "")
    }

    #[test]
    fn records() {
        assert_eq!(log(10, &[b"one\ntwo\n"]), "F one\nF two\n");
        assert_eq!(log(10, &[b"\n\n"]), "F \nF \n");
        assert_eq!(log(10, &[b"o", b"n", b"e\nt", b"wo\n"]), "F one\nF two\n");
        assert_eq!(log(10, &[b"no end"]), "P no end\n");
        assert_eq!(log(10, &[]), "");
    }

    #[test]
    fn long_lines_are_cut_and_joined_again() {
        assert_eq!(log(4, &[b"12345678\n"]), "P 1234\nF 5678\n");
        assert_eq!(log(4, &[b"1234\n5"]), "F 1234\nP 5\n");
        assert_eq!(log(4, &[b"12", b"3456", b"789\n"]), "P 1234\nP 5678\nF 9\n");
        assert_eq!(log(4, &[b"1234", b"\n"]), "F 1234\n");
        assert_eq!(log(4, &[b"1234", b"5\n"]), "P 1234\nF 5\n");
    }

    #[test]
    fn any_bytes_cut_anywhere_come_back() {
        let text: Vec<u8> = (0..3000u32)
            .map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 27).unwrap())
            .collect();
        for cut in [1, 2, 3, 7, 8, 9, 100, 2999] {
            for max in [1, 5, 16, 5000] {
                let mut lines = Lines::new(Stream::Stderr, max);
                let mut out = Vec::new();
                text.chunks(cut)
                    .for_each(|part| lines.push(part, STAMP_TEXT, &mut out, |_| {}));
                lines.finish(STAMP_TEXT, &mut out);
                let mut back = Vec::new();
                for record in out.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n') {
                    let (head, content) = record.split_at(STAMP + 10);
                    assert!(content.len() <= max);
                    back.extend_from_slice(content);
                    match &head[STAMP..] {
                        b" stderr F " => back.push(b'\n'),
                        tag => assert_eq!(tag, b" stderr P "),
                    }
                }
                assert_eq!(back, text, "cut {cut} max {max}");
            }
        }
    }

    #[test]
    fn newlines_are_found_like_the_slow_way() {
        let mut bytes = [0x0bu8; 40];
        for at in 0..40 {
            bytes[at] = b'\n';
            for from in 0..=at {
                assert_eq!(newline(&bytes[from..]), Some(at - from));
            }
            bytes[at] = 0x8a;
        }
        assert_eq!(newline(&bytes), None);
    }
}
