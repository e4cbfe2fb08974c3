//! Header blocks: name/value lists in one zlib stream for each direction of a connection.
//!
//! The stream goes on from block to block (`Z_SYNC_FLUSH`), so a block that cannot be
//! inflated ends the connection. Nothing is allocated from a count or length that the peer
//! names (CVE-2026-35469): counts are only compared with the bytes that are there, and a block
//! inflates to at most `MAX_BLOCK`.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;
use super::frame::Fault;

/// Most bytes that a header block may inflate to.
pub(super) const MAX_BLOCK: usize = 64 * 1024;
/// Most headers in a block.
const MAX_HEADERS: usize = 128;

/// A stream's headers, in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header, empty if it is not there. `name` is in lower case.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    fn parse(block: &[u8]) -> Result<Self, Fault> {
        let mut rest = block;
        let count = take_u32(&mut rest)?;
        let mut headers: Vec<(String, String)> = Vec::new();
        for _ in 0..count {
            if headers.len() == MAX_HEADERS {
                return Err(Fault::Headers("too many"));
            }
            let name = take_text(&mut rest)?.to_ascii_lowercase();
            if name.is_empty() || headers.iter().any(|(n, _)| *n == name) {
                return Err(Fault::Headers("empty or repeated name"));
            }
            // Several values are joined by NUL; only the first matters to us.
            let value = take_text(&mut rest)?;
            let first = value.split('\0').next().unwrap_or_default().to_owned();
            headers.push((name, first));
        }
        if !rest.is_empty() {
            return Err(Fault::Headers("bytes after the last header"));
        }
        Ok(Self(headers))
    }
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, Fault> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(Fault::Headers("cut off"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, Fault> {
    let len = usize::try_from(take_u32(rest)?).map_err(|_| Fault::Headers("cut off"))?;
    let (head, tail) = rest.split_at_checked(len).ok_or(Fault::Headers("cut off"))?;
    *rest = tail;
    std::str::from_utf8(head).map_err(|_| Fault::Headers("not UTF-8"))
}

/// The peer's half of header compression.
#[derive(Debug)]
pub(super) struct Inflater {
    zlib: Decompress,
    block: Vec<u8>,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self {
            zlib: Decompress::new(true),
            block: Vec::new(),
        }
    }

    /// Inflates and parses one block.
    pub(super) fn headers(&mut self, mut input: &[u8]) -> Result<Headers, Fault> {
        self.block.clear();
        loop {
            if self.block.len() == self.block.capacity() {
                if self.block.len() >= MAX_BLOCK {
                    return Err(Fault::Headers("larger than 64 KiB"));
                }
                self.block.reserve(4096);
            }
            let (before_in, before_out) = (self.zlib.total_in(), self.block.len());
            let status = match self.zlib.decompress_vec(input, &mut self.block, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| Fault::Headers("another dictionary"))?;
                    Status::Ok
                }
                Err(_) => return Err(Fault::Headers("bad zlib data")),
            };
            let consumed = usize::try_from(self.zlib.total_in() - before_in).unwrap_or(input.len());
            input = &input[consumed.min(input.len())..];
            if status == Status::StreamEnd {
                return Err(Fault::Headers("the zlib stream ended"));
            }
            // A full buffer may hide more output; anything less means that all came out.
            if input.is_empty() && self.block.len() < self.block.capacity() {
                break;
            }
            if consumed == 0 && self.block.len() == before_out && self.block.len() < self.block.capacity() {
                return Err(Fault::Headers("bad zlib data"));
            }
        }
        let headers = Headers::parse(&self.block);
        self.block.shrink_to(4096);
        headers
    }
}

/// Our half of header compression.
#[derive(Debug)]
pub(super) struct Deflater {
    zlib: Compress,
}

impl Deflater {
    pub(super) fn new() -> Self {
        let mut zlib = Compress::new(Compression::fast(), true);
        // Fails only after compression began.
        zlib.set_dictionary(&DICTIONARY).ok();
        Self { zlib }
    }

    /// A block of these headers, flushed so that the peer can inflate all of it.
    pub(super) fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        push_len(&mut plain, headers.len());
        for (name, value) in headers {
            for text in [name, value] {
                push_len(&mut plain, text.len());
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut packed = Vec::with_capacity(64 + plain.len());
        let before = self.zlib.total_in();
        loop {
            let done = usize::try_from(self.zlib.total_in() - before)
                .unwrap_or(plain.len())
                .min(plain.len());
            // Cannot fail: the input is plain memory and the output grows.
            if self
                .zlib
                .compress_vec(&plain[done..], &mut packed, FlushCompress::Sync)
                .is_err()
                || packed.len() < packed.capacity()
            {
                return packed;
            }
            packed.reserve(256);
        }
    }
}

fn push_len(into: &mut Vec<u8>, len: usize) {
    into.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_go_on_in_one_stream() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        for n in 0..50 {
            let id = n.to_string();
            let block = deflater.block(&[("streamtype", "data"), ("port", "80"), ("requestid", &id)]);
            let headers = inflater.headers(&block).unwrap();
            assert_eq!(headers.get("requestid"), id);
            assert_eq!(headers.get("streamtype"), "data");
            assert_eq!(headers.get("missing"), "");
        }
        assert_eq!(inflater.headers(&deflater.block(&[])).unwrap(), Headers::default());
    }

    #[test]
    fn large_blocks_come_out_whole_and_larger_ones_not_at_all() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let value: String = (0..60_000_u32)
            .map(|n| char::from(b'a' + u8::try_from(n * n % 26).unwrap()))
            .collect();
        assert_eq!(
            inflater.headers(&deflater.block(&[("a", &value)])).unwrap().get("a"),
            value
        );
        let bomb = "0".repeat(10 << 20);
        let packed = deflater.block(&[("a", &bomb)]);
        assert_eq!(
            inflater.headers(&packed).unwrap_err(),
            Fault::Headers("larger than 64 KiB")
        );
        assert!(inflater.block.capacity() <= 2 * MAX_BLOCK);
    }

    #[test]
    fn lies_about_counts_and_lengths_are_refused() {
        for plain in [
            vec![0xff, 0xff, 0xff, 0xff],
            vec![0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
            vec![0, 0, 0, 1, 0, 0, 0, 1, b'a', 0x7f, 0xff, 0xff, 0xff],
            vec![0, 0, 0, 0, 1],
            vec![0, 0],
            vec![0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0],
        ] {
            assert!(Headers::parse(&plain).is_err(), "{plain:?}");
        }
        let many: Vec<(String, &str)> = (0..1000).map(|n| (n.to_string(), "")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let block = Deflater::new().block(&many);
        assert_eq!(Inflater::new().headers(&block).unwrap_err(), Fault::Headers("too many"));
    }

    #[test]
    fn another_dictionary_or_rubbish_is_refused() {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(b"another dictionary").unwrap();
        let mut packed = Vec::with_capacity(100);
        zlib.compress_vec(&[0, 0, 0, 0], &mut packed, FlushCompress::Sync)
            .unwrap();
        assert!(Inflater::new().headers(&packed).is_err());
        assert!(Inflater::new().headers(b"not zlib at all").is_err());
        assert!(Inflater::new().headers(&[]).is_err());
    }
}
