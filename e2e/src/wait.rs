//! Waiting for something to become true.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `probe` every 20 ms until it answers a value; an error after `limit` says what was awaited.
///
/// # Errors
/// Where `probe` fails, or the time is up.
pub async fn until<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
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
    let start = Instant::now();
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
