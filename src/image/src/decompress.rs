//! Gzip, zstd or plain, told apart by their first bytes, as containerd does: media types lie.
//!
//! Concatenated gzip members and zstd frames are one stream; garbage after them is an error.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const BZIP2: &[u8] = b"BZh";
const XZ: &[u8] = &[0xfd, 0x37, 0x7a, 0x58, 0x5a];

/// Beyond this an output is compared with its input.
const FREE: u64 = 1 << 30;
/// Deflate cannot do better than 1032 : 1; what claims more is a bomb.
const MAX_RATIO: u64 = 1100;

/// A decoder over any buffered input.
pub(crate) enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

impl<R: BufRead> Decoder<R> {
    /// Looks at the first bytes of `input` and takes the decoder they ask for.
    pub(crate) fn new(mut input: R) -> io::Result<Self> {
        let head = input.fill_buf()?;
        if head.starts_with(GZIP) {
            return Ok(Self::Gzip(Box::new(MultiGzDecoder::new(input))));
        }
        let skippable = head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18];
        if head.starts_with(ZSTD) || skippable {
            return Ok(Self::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(input)?)));
        }
        for (magic, name) in [(BZIP2, "bzip2"), (XZ, "xz")] {
            if head.starts_with(magic) {
                let what = format!("{name} compression is not supported for layers: gzip, zstd and plain tar are");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        Ok(Self::Plain(input))
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(into),
            Self::Gzip(gzip) => gzip.read(into),
            Self::Zstd(zstd) => zstd.read(into),
        }
    }
}

/// Whether `output` bytes from `input` bytes are more than any honest layer makes.
pub(crate) fn is_bomb(input: u64, output: u64) -> bool {
    output > FREE && output / MAX_RATIO > input
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(data)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn all_forms() {
        let zstd = |d: &[u8]| zstd::encode_all(d, 1).unwrap();
        assert_eq!(decode(b"plain").unwrap(), b"plain");
        assert_eq!(decode(b"").unwrap(), b"");
        assert_eq!(decode(&[gzip(b"a"), gzip(b"b")].concat()).unwrap(), b"ab");
        assert_eq!(decode(&[zstd(b"a"), zstd(b"b")].concat()).unwrap(), b"ab");
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd(b"x")].concat();
        assert_eq!(decode(&skippable).unwrap(), b"x");
    }

    #[test]
    fn truncated_and_dirty_streams_are_errors() {
        let (gz, zs) = (gzip(&[7; 9999]), zstd::encode_all([7u8; 9999].as_slice(), 1).unwrap());
        for stream in [&gz, &zs] {
            for cut in [stream.len() / 2, stream.len() - 1] {
                assert!(decode(&stream[..cut]).is_err(), "{cut}");
            }
            assert!(decode(&[stream.as_slice(), b"garbage"].concat()).is_err());
        }
        assert!(decode(b"BZh91AY").is_err());
        assert!(decode(&[0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]).is_err());
    }

    #[test]
    fn bombs() {
        assert!(!is_bomb(1, 1 << 30));
        assert!(is_bomb(1 << 10, 2 << 30));
        assert!(!is_bomb(2 << 20, 2 << 30));
    }
}
