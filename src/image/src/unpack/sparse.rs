//! Maps of sparse files: old GNU (type `S`), PAX 0.0 and 0.1 (in the header), PAX 1.0 (before
//! the data). A map is bounded (CVE-2025-58183), ascending, and as long as its data.

use super::pax::decimal;
use super::tar::{BLOCK, TarError, bad, number};

/// More parts than any real file; 1.6 MB of memory.
pub(super) const MAX_MAP: usize = 100_000;

/// Where the parts of a file with holes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// Offset and length.
    pub(crate) map: Vec<(u64, u64)>,
    /// Length of the whole file.
    pub(crate) real: u64,
}

impl Sparse {
    /// Proves the map sound for `data` bytes of content.
    pub(super) fn check(self, data: u64) -> Result<Self, TarError> {
        let (mut end, mut sum) = (0u64, 0u64);
        for (offset, length) in &self.map {
            let next = offset
                .checked_add(*length)
                .ok_or_else(|| bad("a malformed sparse map"))?;
            if *offset < end || next > self.real {
                return Err(bad("a sparse map that is not in order or leaves its file"));
            }
            end = next;
            sum += length;
        }
        if sum != data {
            return Err(bad(format!("a sparse map of {sum} bytes for {data} bytes of data")));
        }
        if i64::try_from(self.real).is_err() {
            return Err(bad("a sparse file that is too large"));
        }
        Ok(self)
    }
}

/// Four parts in the header, 21 in each block that follows while a flag says so.
pub(super) fn old_gnu(
    header: &[u8; BLOCK],
    mut more: impl FnMut(&mut [u8]) -> Result<(), TarError>,
) -> Result<Sparse, TarError> {
    let malformed = || bad("a malformed sparse map");
    let field = |bytes: &[u8]| number(bytes).and_then(|n| u64::try_from(n).ok()).ok_or_else(malformed);
    let mut map = Vec::new();
    let mut take = |bytes: &[u8]| -> Result<(), TarError> {
        for part in bytes.chunks_exact(24) {
            if part.iter().all(|b| *b == 0) {
                break;
            }
            map.push((field(&part[..12])?, field(&part[12..])?));
        }
        if map.len() > MAX_MAP {
            Err(bad(format!("a sparse map of more than {MAX_MAP} parts")))
        } else {
            Ok(())
        }
    };
    take(&header[386..482])?;
    let real = field(&header[483..495])?;
    let mut extended = header[482] != 0;
    while extended {
        let mut block = [0u8; BLOCK];
        more(&mut block)?;
        take(&block[..504])?;
        extended = block[504] != 0;
    }
    Ok(Sparse { map, real })
}

/// Decimal numbers, one a line, the first their count, in whole blocks at the data's start.
pub(super) fn in_data(real: u64, mut more: impl FnMut(&mut [u8]) -> Result<(), TarError>) -> Result<Sparse, TarError> {
    let malformed = || bad("a malformed sparse map");
    let mut numbers = Vec::new();
    let mut wanted: Option<usize> = None;
    let mut digits = Vec::new();
    loop {
        let mut block = [0u8; BLOCK];
        more(&mut block)?;
        for byte in block {
            match byte {
                b'\n' => {
                    let value = decimal(&digits).filter(|_| !digits.is_empty()).ok_or_else(malformed)?;
                    digits.clear();
                    if wanted.is_none() {
                        let count = usize::try_from(value).ok().filter(|n| *n <= MAX_MAP);
                        let count = count.ok_or_else(|| bad(format!("a sparse map of more than {MAX_MAP} parts")))?;
                        wanted = Some(2 * count);
                    } else {
                        numbers.push(value);
                    }
                    if wanted == Some(numbers.len()) {
                        let map = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
                        return Ok(Sparse { map, real });
                    }
                }
                digit if digits.len() < 20 => digits.push(digit),
                _ => return Err(malformed()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsound_maps_are_refused() {
        let check = |map: &[(u64, u64)], real, data| {
            Sparse {
                map: map.to_vec(),
                real,
            }
            .check(data)
        };
        assert!(check(&[(0, 5), (10, 5)], 20, 10).is_ok());
        assert!(check(&[], 1 << 40, 0).is_ok());
        for (map, real, data) in [
            (vec![(10, 5), (0, 5)], 20, 10),
            (vec![(0, 5), (4, 5)], 20, 10),
            (vec![(0, 5), (18, 5)], 20, 10),
            (vec![(0, 5)], 20, 6),
            (vec![(u64::MAX, 2)], 20, 2),
            (vec![], u64::MAX, 0),
        ] {
            assert!(check(&map, real, data).is_err(), "{map:?}");
        }
    }

    #[test]
    fn a_billion_parts_are_not_allocated() {
        let mut first = true;
        let result = in_data(10, |block| {
            if std::mem::take(&mut first) {
                block[..11].copy_from_slice(b"1000000000\n");
            }
            Ok(())
        });
        assert!(result.is_err());
        let mut blocks = 0;
        let mut header = [0u8; BLOCK];
        header[482] = 1;
        let endless = old_gnu(&header, |block| {
            blocks += 1;
            block.fill(b'1');
            Ok(())
        });
        assert!(endless.is_err() && blocks < 10_000);
    }
}
