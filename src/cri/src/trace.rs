//! The trace id of a request: the caller's, from W3C trace context, or one of our own.
//!
//! `traceparent: 00-<32 hex trace id>-<16 hex parent id>-<2 hex flags>` (W3C Trace Context 1, section 3.2). What does
//! not follow it is ignored, as section 4.3 has it, and the request gets a new id, so that its log lines can be
//! told from others' all the same.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::metadata::MetadataMap;

/// The trace id of the request with this metadata.
pub(crate) fn id(metadata: &MetadataMap) -> String {
    let given = metadata.get("traceparent").and_then(|value| value.to_str().ok());
    given.and_then(parse).unwrap_or_else(fresh)
}

fn parse(text: &str) -> Option<String> {
    let mut parts = text.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    let flags = parts.next()?;
    // A later version may have more parts; version ff is forbidden.
    let good = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2)
        && (version != "00" || parts.next().is_none());
    good.then(|| trace.to_owned())
}

/// Unique rather than secret: a keyed hash of a counter.
fn fresh() -> String {
    static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = KEYS
        .get_or_init(|| [RandomState::new(), RandomState::new()])
        .each_ref()
        .map(|key| key.hash_one(number));
    format!("{high:016x}{low:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with(text: &str) -> String {
        let mut metadata = MetadataMap::new();
        metadata.insert("traceparent", text.parse().unwrap());
        id(&metadata)
    }

    #[test]
    fn the_callers_trace_id_is_taken() {
        assert_eq!(with(GIVEN), "4bf92f3577b34da6a3ce929d0e0e4736");
        let later = GIVEN.replacen("00", "01", 1) + "-more";
        assert_eq!(with(&later), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn what_is_no_trace_context_gets_a_new_id() {
        let zero = GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        for bad in [
            "",
            "00",
            "00-xyz-00f067aa0ba902b7-01",
            &GIVEN.replacen("00", "ff", 1),
            &GIVEN.to_uppercase(),
            &format!("{GIVEN}-more"),
            &zero,
        ] {
            let made = with(bad);
            assert!(made.len() == 32 && !bad.contains(&made), "{bad}: {made}");
        }
        assert_ne!(id(&MetadataMap::new()), id(&MetadataMap::new()));
    }
}
