//! The tar format as container layers use it: V7, ustar, star, GNU (long names, sparse) and
//! PAX, read from a stream, block by block.
//!
//! Our own instead of the `tar-core` crate (which the tests compare it with): that one wants a
//! header with all its extensions in one slice, refuses mtimes before 1970, drops the fraction
//! of a second, and forgets a PAX header when a global one follows it.
//!
//! Where the reference parsers (Go's archive/tar, GNU tar) disagree, an archive is refused and
//! not guessed at: that is how one archive becomes two (CVE-2025-62518, CVE-2026-33055).
//!
//! * PAX `size` wins over the header's; link, device and directory entries have no data,
//!   whatever their size says (as in Go).
//! * A name from both GNU `L` and PAX `path`, an extension given twice, an extension without
//!   an entry, a malformed record: errors. Global headers are read and ignored, as docker does.
//! * The end of the input at an entry's border ends the archive; anywhere else it is an error.

use std::io::BufRead;

use thiserror::Error;

use super::pax::{self, Pax};
use super::sparse::{self, Sparse};

pub(super) const BLOCK: usize = 512;
/// As in Go's archive/tar (`maxSpecialFileSize`).
const MAX_EXTENSION: u64 = 1 << 20;

/// Why an archive cannot be read.
#[derive(Debug, Error)]
pub(crate) enum TarError {
    #[error("{0}")]
    Read(#[from] std::io::Error),
    #[error("it ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("{0}")]
    Bad(String),
}

pub(super) fn bad(what: impl Into<String>) -> TarError {
    TarError::Bad(what.into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
}

/// One entry, with all extensions applied. `path` and `link` are as the archive has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Bytes of data that follow in the archive.
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<Sparse>,
}

/// A tar stream.
pub(crate) struct Archive<R> {
    input: R,
    /// Data of the current entry not read yet.
    left: u64,
    /// Zeros after it.
    padding: u64,
    done: bool,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
            done: false,
        }
    }

    /// The next entry; the data of the one before is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_data()?;
        if self.done {
            return Ok(None);
        }
        let mut extensions = Extensions::default();
        loop {
            let Some(block) = self.header_block(extensions.any())? else {
                if extensions.any() {
                    return Err(bad("extended headers without an entry"));
                }
                self.done = true;
                return Ok(None);
            };
            let header = Header(&block);
            header.verify()?;
            let size = header.number(124, 12, "size")?;
            let size = u64::try_from(size).map_err(|_| bad("a negative size"))?;
            let format = header.format();
            match (block[156], format) {
                (b'g', _) => {
                    if extensions.any() {
                        return Err(bad("a global header between an entry and its extended header"));
                    }
                    pax::parse(&self.extension(size)?)?;
                }
                (b'x' | b'X', Format::Ustar | Format::Star | Format::Gnu) => {
                    let records = pax::parse(&self.extension(size)?)?;
                    extensions.pax.set(records, "PAX header")?;
                }
                (b'L', Format::Ustar | Format::Star | Format::Gnu) => {
                    let name = cut(&self.extension(size)?).to_vec();
                    extensions.name.set(name, "GNU long name")?;
                }
                (b'K', Format::Ustar | Format::Star | Format::Gnu) => {
                    let link = cut(&self.extension(size)?).to_vec();
                    extensions.link.set(link, "GNU long link")?;
                }
                (flag, format) => return self.entry(&header, (flag, format), size, extensions).map(Some),
            }
        }
    }

    /// Hands the current entry's data, in pieces, to `sink`.
    pub(crate) fn data<E: From<TarError>>(&mut self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while self.left > 0 {
            let chunk = self.input.fill_buf().map_err(TarError::from)?;
            if chunk.is_empty() {
                return Err(TarError::Truncated("an entry's data").into());
            }
            let take = chunk.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            sink(&chunk[..take])?;
            self.input.consume(take);
            self.left -= take as u64;
        }
        Ok(())
    }

    /// Reads `into.len()` bytes of the current entry's data.
    pub(super) fn data_exact(&mut self, into: &mut [u8]) -> Result<(), TarError> {
        if (into.len() as u64) > self.left {
            return Err(TarError::Truncated("a sparse map"));
        }
        read_exact(&mut self.input, into, "a sparse map")?;
        self.left -= into.len() as u64;
        Ok(())
    }

    /// Reads what follows the archive, to its end, so that all of it is hashed.
    pub(crate) fn drain(&mut self) -> Result<u64, TarError> {
        let mut count = 0;
        loop {
            let chunk = self.input.fill_buf()?.len();
            if chunk == 0 {
                return Ok(count);
            }
            self.input.consume(chunk);
            count += chunk as u64;
        }
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        self.data(|_| Ok::<(), TarError>(()))?;
        self.left = std::mem::take(&mut self.padding);
        self.data(|_| Ok::<(), TarError>(()))
    }

    /// The next block that is a header; nothing at the end of the archive. A single block of
    /// zeros is skipped, as GNU tar and Go do.
    fn header_block(&mut self, in_entry: bool) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut zeros = 0;
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(None);
            }
            let mut block = [0u8; BLOCK];
            read_exact(&mut self.input, &mut block, "a header")?;
            if block.iter().any(|b| *b != 0) {
                return Ok(Some(block));
            }
            zeros += 1;
            if zeros == 2 {
                return Ok(None);
            }
            if in_entry {
                return Err(bad("a block of zeros after an extended header"));
            }
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(bad(format!(
                "an extended header of {size} bytes; at most {MAX_EXTENSION} are read"
            )));
        }
        let length = usize::try_from(size).map_err(|_| bad("size"))?;
        let mut content = vec![0u8; length.next_multiple_of(BLOCK)];
        read_exact(&mut self.input, &mut content, "an extended header")?;
        content.truncate(length);
        Ok(content)
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        (flag, format): (u8, Format),
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, TarError> {
        let pax = extensions.pax.0.unwrap_or_default();
        let size = pax.size.unwrap_or(size);
        let long_name = extensions.name.0;
        let long_link = extensions.link.0;
        if (long_name.is_some() && pax.path.is_some()) || (long_link.is_some() && pax.linkpath.is_some()) {
            return Err(bad("a name in a GNU header and another in a PAX header"));
        }
        let path = pax.path.clone().or(long_name).unwrap_or_else(|| header.path(format));
        let link = pax
            .linkpath
            .clone()
            .or(long_link)
            .unwrap_or_else(|| cut(&header.0[157..257]).to_vec());
        let kind = kind(flag, &path)?;
        let number = |at, len, what| -> Result<u32, TarError> {
            u32::try_from(header.number(at, len, what)?).map_err(|_| bad(format!("{what} is out of range")))
        };
        let device = match kind {
            EntryKind::Char | EntryKind::Block => (number(329, 8, "device major")?, number(337, 8, "device minor")?),
            _ => (0, 0),
        };
        let mut entry = Entry {
            kind,
            path,
            link,
            mode: number(100, 8, "mode")? & 0o7777,
            uid: pax.uid.map_or_else(|| number(108, 8, "uid"), Ok)?,
            gid: pax.gid.map_or_else(|| number(116, 8, "gid"), Ok)?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => (header.number(136, 12, "mtime")?, 0),
            },
            size: if kind == EntryKind::File { size } else { 0 },
            device,
            xattrs: pax.xattrs.clone(),
            sparse: None,
        };
        self.left = entry.size;
        self.padding = entry
            .size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or_else(|| bad("size"))?
            - entry.size;
        self.sparse(header, flag, &pax, &mut entry)?;
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(bad("a name with a zero byte"));
        }
        Ok(entry)
    }

    fn sparse(&mut self, header: &Header<'_>, flag: u8, pax: &Pax, entry: &mut Entry) -> Result<(), TarError> {
        if flag == b'S' {
            if header.format() != Format::Gnu {
                return Err(bad("a GNU sparse entry in an archive that is not GNU's"));
            }
            // The rest of the map lies between the header and the data, outside its size.
            let input = &mut self.input;
            let map = sparse::old_gnu(header.0, |block| read_exact(input, block, "a sparse map"))?;
            entry.sparse = Some(map.check(entry.size)?);
            return Ok(());
        }
        if entry.kind != EntryKind::File {
            return Ok(());
        }
        if let Some(name) = &pax.sparse_name {
            entry.path.clone_from(name);
        }
        if pax.sparse_version == Some((1, 0)) {
            let real = pax
                .sparse_size
                .ok_or_else(|| bad("a sparse entry without its real size"))?;
            let map = sparse::in_data(real, |block| self.data_exact(block))?;
            entry.size = self.left;
            entry.sparse = Some(map.check(entry.size)?);
        } else if let Some(map) = &pax.sparse_map {
            let real = pax
                .sparse_size
                .ok_or_else(|| bad("a sparse entry without its real size"))?;
            entry.sparse = Some(Sparse { map: map.clone(), real }.check(entry.size)?);
        }
        Ok(())
    }
}

/// One optional extension, given at most once.
struct Once<T>(Option<T>);

impl<T> Once<T> {
    fn set(&mut self, value: T, what: &str) -> Result<(), TarError> {
        if self.0.replace(value).is_some() {
            return Err(bad(format!("a second {what} for one entry")));
        }
        Ok(())
    }
}

struct Extensions {
    pax: Once<Pax>,
    name: Once<Vec<u8>>,
    link: Once<Vec<u8>>,
}

impl Default for Extensions {
    fn default() -> Self {
        Self {
            pax: Once(None),
            name: Once(None),
            link: Once(None),
        }
    }
}

impl Extensions {
    fn any(&self) -> bool {
        self.pax.0.is_some() || self.name.0.is_some() || self.link.0.is_some()
    }
}

fn kind(flag: u8, path: &[u8]) -> Result<EntryKind, TarError> {
    Ok(match flag {
        // Before ustar a directory was a file whose name ends in a slash.
        0 if path.ends_with(b"/") => EntryKind::Dir,
        0 | b'0' | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::Char,
        b'4' => EntryKind::Block,
        b'5' => EntryKind::Dir,
        b'6' => EntryKind::Fifo,
        other => return Err(bad(format!("an entry of unknown type {:?}", char::from(other)))),
    })
}

fn read_exact(input: &mut impl BufRead, into: &mut [u8], what: &'static str) -> Result<(), TarError> {
    input.read_exact(into).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => TarError::Truncated(what),
        _ => TarError::Read(e),
    })
}

/// Up to the first zero byte.
pub(super) fn cut(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(field)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn format(&self) -> Format {
        match (&self.0[257..263], &self.0[263..265]) {
            (b"ustar\0", _) if &self.0[508..512] == b"tar\0" => Format::Star,
            (b"ustar\0", _) => Format::Ustar,
            (b"ustar ", b" \0") => Format::Gnu,
            _ => Format::V7,
        }
    }

    fn verify(&self) -> Result<(), TarError> {
        let field = 148..156;
        let byte = |(at, b): (usize, &u8)| if field.contains(&at) { b' ' } else { *b };
        let unsigned: i64 = self.0.iter().enumerate().map(|x| i64::from(byte(x))).sum();
        // Some old tars summed signed characters.
        let signed: i64 = self
            .0
            .iter()
            .enumerate()
            .map(|x| i64::from(byte(x).cast_signed()))
            .sum();
        let stored = self.number(148, 8, "checksum")?;
        if stored == unsigned || stored == signed {
            Ok(())
        } else {
            Err(bad("a header whose checksum is wrong"))
        }
    }

    fn path(&self, format: Format) -> Vec<u8> {
        let name = cut(&self.0[..100]);
        let prefix = match format {
            Format::Ustar => cut(&self.0[345..500]),
            Format::Star => cut(&self.0[345..476]),
            Format::V7 | Format::Gnu => b"",
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    fn number(&self, at: usize, len: usize, what: &str) -> Result<i64, TarError> {
        number(&self.0[at..at + len]).ok_or_else(|| bad(format!("a header whose {what} is no number")))
    }
}

/// Octal text, or base 256 where the highest bit is set (GNU, star).
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            value = (value << 8) | i128::from(byte);
            // Twelve bytes hold more than we can say.
            if !(-(1i128 << 100)..(1i128 << 100)).contains(&value) {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let text = field.split(|b| *b == 0).next()?.trim_ascii();
    if text.is_empty() {
        // Go and GNU tar take blanks for zero, and some fields begin with a zero byte.
        return field.iter().all(|b| matches!(b, 0 | b' ')).then_some(0);
    }
    text.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}
