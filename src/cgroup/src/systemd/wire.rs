//! D-Bus messages (D-Bus specification 0.43, "Message Protocol"), little-endian, as far as the calls of `bus` need them.

/// Where a message would be longer than anything that systemd answers.
const LONGEST: usize = 1 << 20;

/// A value in a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    Number(u64),
    Numbers(Vec<u32>),
    Bytes(Vec<u8>),
}

/// The body of a call: bytes and their signature.
#[derive(Debug, Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
    signature: String,
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    while !bytes.len().is_multiple_of(to) {
        bytes.push(0);
    }
}

fn put_u32(bytes: &mut Vec<u8>, value: u32) {
    pad(bytes, 4);
    bytes.extend_from_slice(&value.to_le_bytes());
}

/// Lengths are of what we write ourselves, a few kilobytes.
fn length(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_u32(bytes, length(text.len()));
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

fn put_signature(bytes: &mut Vec<u8>, signature: &str) {
    bytes.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(signature.as_bytes());
    bytes.push(0);
}

/// An array: its length is counted from its first element, the padding before that is not in it.
fn put_array(bytes: &mut Vec<u8>, alignment: usize, fill: impl FnOnce(&mut Vec<u8>)) {
    put_u32(bytes, 0);
    let at = bytes.len() - 4;
    pad(bytes, alignment);
    let start = bytes.len();
    fill(bytes);
    let count = length(bytes.len() - start).to_le_bytes();
    bytes[at..at + 4].copy_from_slice(&count);
}

fn put_variant(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(text) => {
            put_signature(bytes, "s");
            put_text(bytes, text);
        }
        Value::Bool(value) => {
            put_signature(bytes, "b");
            put_u32(bytes, u32::from(*value));
        }
        Value::Number(value) => {
            put_signature(bytes, "t");
            pad(bytes, 8);
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        Value::Numbers(values) => {
            put_signature(bytes, "au");
            put_array(bytes, 4, |bytes| values.iter().for_each(|value| put_u32(bytes, *value)));
        }
        Value::Bytes(values) => {
            put_signature(bytes, "ay");
            put_array(bytes, 1, |bytes| bytes.extend_from_slice(values));
        }
    }
}

impl Body {
    pub(super) fn text(mut self, text: &str) -> Self {
        put_text(&mut self.bytes, text);
        self.signature.push('s');
        self
    }

    pub(super) fn bool(mut self, value: bool) -> Self {
        put_u32(&mut self.bytes, u32::from(value));
        self.signature.push('b');
        self
    }

    /// `a(sv)`
    pub(super) fn properties<'a>(mut self, all: impl Iterator<Item = (&'a str, &'a Value)>) -> Self {
        put_array(&mut self.bytes, 8, |bytes| {
            for (name, value) in all {
                pad(bytes, 8);
                put_text(bytes, name);
                put_variant(bytes, value);
            }
        });
        self.signature.push_str("a(sv)");
        self
    }

    /// `a(sa(sv))`, empty: the auxiliary units of StartTransientUnit.
    pub(super) fn no_units(mut self) -> Self {
        put_array(&mut self.bytes, 8, |_| {});
        self.signature.push_str("a(sa(sv))");
        self
    }
}

/// A method call of systemd's manager.
pub(super) fn call(serial: u32, member: &str, body: &Body) -> Vec<u8> {
    // little-endian, METHOD_CALL, no flags, version 1
    let mut message = vec![b'l', 1, 0, 1];
    put_u32(&mut message, length(body.bytes.len()));
    put_u32(&mut message, serial);
    put_array(&mut message, 8, |bytes| {
        let fields = [
            (1_u8, "o", "/org/freedesktop/systemd1"),
            (2, "s", "org.freedesktop.systemd1.Manager"),
            (3, "s", member),
            (6, "s", "org.freedesktop.systemd1"),
        ];
        for (code, kind, text) in fields {
            pad(bytes, 8);
            bytes.push(code);
            put_signature(bytes, kind);
            put_text(bytes, text);
        }
        pad(bytes, 8);
        bytes.push(8);
        put_signature(bytes, "g");
        put_signature(bytes, &body.signature);
    });
    pad(&mut message, 8);
    message.extend_from_slice(&body.bytes);
    message
}

/// What came back for a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Done,
    Failed {
        name: String,
        message: String,
    },
    /// A signal, or a reply to something else.
    Other,
}

/// The length of the whole message that begins with these 16 bytes; `None` where it is none that we would read.
pub(super) fn whole(head: &[u8; 16]) -> Option<usize> {
    let number = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?) as usize);
    let fields = number(12)?;
    let body = number(4)?;
    let all = 16_usize
        .checked_add(fields)?
        .checked_next_multiple_of(8)?
        .checked_add(body)?;
    (head[0] == b'l' && head[3] == 1 && all <= LONGEST).then_some(all)
}

/// Reads a whole message; `None` where it is not well-formed.
pub(super) fn reply(message: &[u8], serial: u32) -> Option<Reply> {
    let head: &[u8; 16] = message.first_chunk()?;
    let fields = u32::from_le_bytes(message.get(12..16)?.try_into().ok()?) as usize;
    let end = 16_usize.checked_add(fields)?;
    let mut reader = Reader { bytes: message, at: 16 };
    let (mut answers, mut name, mut signature) = (None, String::new(), String::new());
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        match (code, reader.signature()?.as_str()) {
            (5, "u") => answers = Some(reader.number()?),
            (4, "s") => name = reader.text()?,
            (8, "g") => signature = reader.signature()?,
            (_, "s" | "o") => drop(reader.text()?),
            (_, "u") => drop(reader.number()?),
            (_, "g") => drop(reader.signature()?),
            _ => return None,
        }
    }
    if answers != Some(serial) {
        return Some(Reply::Other);
    }
    match head[1] {
        2 => Some(Reply::Done),
        3 => {
            reader.at = end;
            reader.align(8);
            let message = if signature.starts_with('s') {
                reader.text()?
            } else {
                String::new()
            };
            Some(Reply::Failed { name, message })
        }
        _ => Some(Reply::Other),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|one| one[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let count = self.number()? as usize;
        let text = String::from_utf8_lossy(self.take(count)?).into_owned();
        self.byte()?;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let count = usize::from(self.byte()?);
        let text = String::from_utf8_lossy(self.take(count)?).into_owned();
        self.byte()?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What systemd answers: made by the rules of the specification, field by field.
    fn answer(kind: u8, to: u32, name: Option<&str>, text: Option<&str>) -> Vec<u8> {
        let mut body = Vec::new();
        if let Some(text) = text {
            put_text(&mut body, text);
        }
        let mut message = vec![b'l', kind, 1, 1];
        put_u32(&mut message, length(body.len()));
        put_u32(&mut message, 77);
        put_array(&mut message, 8, |bytes| {
            bytes.push(5);
            put_signature(bytes, "u");
            put_u32(bytes, to);
            if let Some(name) = name {
                pad(bytes, 8);
                bytes.push(4);
                put_signature(bytes, "s");
                put_text(bytes, name);
            }
            if text.is_some() {
                pad(bytes, 8);
                bytes.push(8);
                put_signature(bytes, "g");
                put_signature(bytes, "s");
            }
        });
        pad(&mut message, 8);
        message.extend_from_slice(&body);
        message
    }

    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let value = Value::Number(7);
        let body = Body::default()
            .text("ab")
            .bool(true)
            .properties([("P", &value)].into_iter());
        assert_eq!(body.signature, "sba(sv)");
        let wanted: &[u8] = &[
            2, 0, 0, 0, b'a', b'b', 0, 0, // "ab", padded to 4
            1, 0, 0, 0, // true
            24, 0, 0, 0, // length of the array, from its first struct on
            1, 0, 0, 0, b'P', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(body.bytes, wanted);
        let message = call(3, "Member", &body);
        let head: &[u8; 16] = message.first_chunk().unwrap();
        assert_eq!(whole(head), Some(message.len()));
        assert_eq!(&message[..4], b"l\x01\0\x01");
        assert!((message.len() - body.bytes.len()).is_multiple_of(8));
        assert_eq!(reply(&message, 3), Some(Reply::Other));
    }

    #[test]
    fn replies_errors_and_signals_are_told_apart() {
        assert_eq!(reply(&answer(2, 5, None, Some("/job/1")), 5), Some(Reply::Done));
        assert_eq!(reply(&answer(2, 4, None, None), 5), Some(Reply::Other));
        let failed = Reply::Failed {
            name: "org.x.Error".into(),
            message: "no".into(),
        };
        assert_eq!(reply(&answer(3, 5, Some("org.x.Error"), Some("no")), 5), Some(failed));
    }

    #[test]
    fn a_message_cut_anywhere_or_changed_is_no_panic() {
        let message = answer(3, 5, Some("org.x.Error"), Some("no"));
        for end in 0..message.len() {
            drop(reply(&message[..end], 5));
        }
        for at in 0..message.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = message.clone();
                changed[at] = value;
                drop(reply(&changed, 5));
                if let Some(head) = changed.first_chunk() {
                    assert!(whole(head).is_none_or(|all| all <= LONGEST));
                }
            }
        }
    }
}
