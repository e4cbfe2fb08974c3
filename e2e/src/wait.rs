//! Waiting for something to become true.
//!
//! `BULKHEAD_E2E_PATIENCE` says how many times longer it may take where the machine itself is that much slower (`hack/vm`
//! without KVM). What a test measures and asserts about time is not stretched.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The factor; 1 where nothing sensible is said.
#[must_use]
pub fn patience() -> u32 {
    let said = std::env::var("BULKHEAD_E2E_PATIENCE").ok();
    said.and_then(|text| text.parse().ok())
        .map_or(1, |factor: u32| factor.clamp(1, 100))
}

/// Asks `probe` every 20 ms until it answers a value; an error after `limit` says what was awaited.
///
/// # Errors
/// Where `probe` fails, or the time is up.
pub async fn until<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let (start, limit) = (Instant::now(), limit * patience());
    loop {
        if let Some(value) = probe().await? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("after {limit:?} still not: {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As [`until`], without a runtime.
///
/// # Errors
/// Where `probe` fails, or the time is up.
pub fn blocking<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let (start, limit) = (Instant::now(), limit * patience());
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("after {limit:?} still not: {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
