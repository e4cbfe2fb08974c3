//! The time of day, never going back within one daemon: the kubelet orders containers by
//! creation time, and a clock set back must not hide the newest of them.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

static LAST: AtomicI64 = AtomicI64::new(0);

/// Nanoseconds since the epoch by the host's clock.
pub(crate) fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A time of creation: strictly later than the one before.
pub(crate) fn strictly_later() -> i64 {
    let now = wall();
    let previous = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
    now.max(previous.unwrap_or(0) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_creations_never_share_a_time() {
        let times: Vec<i64> = (0..1000).map(|_| strictly_later()).collect();
        assert!(times.windows(2).all(|w| w[0] < w[1]));
        assert!(times[0] > 1_500_000_000_000_000_000);
    }
}
