//! PAX records: `<length> <key>=<value>\n`, of which the length counts itself.

use super::sparse::MAX_MAP;
use super::tar::{TarError, bad};

/// The records that mean something to a layer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse_version: Option<(u64, u64)>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_map: Option<Vec<(u64, u64)>>,
}

/// Reads all records; one that is malformed makes the whole header so.
pub(super) fn parse(mut content: &[u8]) -> Result<Pax, TarError> {
    let mut pax = Pax::default();
    let (mut major, mut minor, mut offset) = (None, None, None);
    while !content.is_empty() {
        let (key, value, rest) = record(content).ok_or_else(|| bad("a malformed PAX record"))?;
        content = rest;
        if key.is_empty() || key.contains(&0) {
            return Err(bad("a PAX record without a proper key"));
        }
        let named = || text(value).filter(|v| !v.contains('\0'));
        match key {
            b"path" | b"linkpath" | b"GNU.sparse.name" if value.contains(&0) => {
                return Err(bad("a PAX name with a zero byte"));
            }
            // An empty value takes back what the header says (POSIX, pax).
            b"path" => pax.path = some(value),
            b"linkpath" => pax.linkpath = some(value),
            b"size" => pax.size = Some(decimal(value).ok_or_else(|| bad("a PAX size that is no number"))?),
            b"uid" => pax.uid = Some(id(value)?),
            b"gid" => pax.gid = Some(id(value)?),
            b"mtime" => {
                pax.mtime = Some(
                    named()
                        .and_then(time)
                        .ok_or_else(|| bad("a PAX mtime that is no time"))?,
                )
            }
            b"GNU.sparse.major" => major = decimal(value),
            b"GNU.sparse.minor" => minor = decimal(value),
            b"GNU.sparse.name" => pax.sparse_name = some(value),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                pax.sparse_size = Some(decimal(value).ok_or_else(|| bad("a sparse size that is no number"))?);
            }
            b"GNU.sparse.offset" => offset = Some(decimal(value).ok_or_else(|| bad("a malformed sparse map"))?),
            b"GNU.sparse.numbytes" => {
                let length = decimal(value).ok_or_else(|| bad("a malformed sparse map"))?;
                let start = offset.take().ok_or_else(|| bad("a malformed sparse map"))?;
                let map = pax.sparse_map.get_or_insert_default();
                map.push((start, length));
                if map.len() > MAX_MAP {
                    return Err(bad(format!("a sparse map of more than {MAX_MAP} parts")));
                }
            }
            b"GNU.sparse.map" => pax.sparse_map = Some(map(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    pax.xattrs.retain(|(known, _)| known != name);
                    pax.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    if let (Some(major), Some(minor)) = (major, minor) {
        pax.sparse_version = Some((major, minor));
    }
    Ok(pax)
}

fn record(content: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = content.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&content[..space])?).ok()?;
    if length <= space + 1 || length > content.len() {
        return None;
    }
    let (this, rest) = content.split_at(length);
    let body = this[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

fn some(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// Digits and nothing else: `str::parse` would take a plus sign.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    text(value)?.parse().ok()
}

fn id(value: &[u8]) -> Result<u32, TarError> {
    decimal(value)
        .and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| bad("a PAX owner that is no id"))
}

/// `[-]seconds[.fraction]`, as seconds and nanoseconds after them.
fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (negative, digits) = whole.strip_prefix('-').map_or((false, whole), |rest| (true, rest));
    let seconds = i64::try_from(decimal(digits.as_bytes()).filter(|_| !digits.is_empty())?).ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0, |n, d| n * 10 + u32::from(d - b'0'));
    Some(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

fn map(value: &[u8]) -> Result<Vec<(u64, u64)>, TarError> {
    let mut numbers = Vec::new();
    for part in value.split(|b| *b == b',') {
        numbers.push(
            decimal(part)
                .filter(|_| !part.is_empty())
                .ok_or_else(|| bad("a malformed sparse map"))?,
        );
        if numbers.len() > 2 * MAX_MAP {
            return Err(bad(format!("a sparse map of more than {MAX_MAP} parts")));
        }
    }
    if !numbers.len().is_multiple_of(2) {
        return Err(bad("a malformed sparse map"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, wanted) in [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.123456789999", Some((1, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-0.25", Some((-1, 750_000_000))),
            ("-62135596800", Some((-62_135_596_800, 0))),
            ("", None),
            ("-", None),
            (".5", None),
            ("+1", None),
            ("1e3", None),
            ("1.-5", None),
        ] {
            assert_eq!(time(text), wanted, "{text}");
        }
    }

    #[test]
    fn malformed_records_are_errors() {
        for bad in [
            "x",
            "5 a=b",
            "6 a=b\nx",
            "3 =",
            "5 =b\n",
            "0 a=b\n",
            "-6 a=b\n",
            "99999999999999999999 a=b\n",
            "8 a=b\n",
            "6 ab \n",
            "+6 a=b\n",
            "13 path=a\0bc\n",
            "9 uid=-1\n",
            "17 uid=4294967296\n",
            "9 size=x\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(parse(b"6 a=b\n").unwrap(), Pax::default());
    }

    #[test]
    fn the_last_of_two_records_counts_and_an_empty_one_takes_back() {
        let pax = parse(b"10 path=a\n10 path=b\n12 uid=1000\n12 gid=1000\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(b"b".as_slice()));
        assert_eq!(pax.uid, Some(1000));
        assert_eq!(parse(b"10 path=a\n8 path=\n").unwrap().path, None);
    }
}
