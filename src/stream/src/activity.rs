//! When a session last moved a byte: what the idle timeout is measured from.
//!
//! Payload counts, keep-alive does not: clients of Kubernetes ping every few seconds for as
//! long as they live, which would make the timeout meaningless.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Shared by everything that moves bytes of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    start: Instant,
    last: Arc<AtomicU64>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            last: Arc::default(),
        }
    }

    /// Notes that a byte moved now.
    pub(crate) fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for `limit`; never if `limit` is zero.
    pub(crate) async fn idle(&self, limit: Duration) {
        if limit.is_zero() {
            return std::future::pending().await;
        }
        loop {
            let quiet_until = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
            if quiet_until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(quiet_until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_put_off_the_end() {
        let activity = Activity::new();
        let begin = Instant::now();
        let mover = activity.clone();
        let moving = tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(6)).await;
                mover.touch();
            }
        });
        activity.idle(Duration::from_secs(10)).await;
        moving.await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 28);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_means_no_limit() {
        let activity = Activity::new();
        let waited = tokio::time::timeout(Duration::from_secs(1_000_000), activity.idle(Duration::ZERO)).await;
        assert!(waited.is_err());
    }
}
