//! The bytes of one blob: exactly as many as the manifest says, resumed with `Range` where the
//! connection breaks, watched for progress.
//!
//! Time counts only while we wait for the network: a slow unpacker is no stall (CRI-O #8760).
//! Some bytes are not progress either: less than [`WINDOW`] in a whole timeout is a trickle
//! (containerd #11650).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use spec::{Digest, Kind};

use crate::error::Error;
use crate::registry::client::{Answer, chain};
use crate::registry::session::Session;

const WINDOW: u64 = 16 << 10;
/// Breaks that are forgiven; each MiB in between earns them back.
const RESUMES: u32 = 6;
const EARNED_BY: u64 = 1 << 20;

/// Reads one blob.
pub(crate) struct BlobReader {
    session: Arc<Session>,
    at: usize,
    digest: Digest,
    size: u64,
    received: u64,
    /// Bytes of a restarted body that we have already.
    skip: u64,
    body: Incoming,
    host: String,
    breaks: u32,
    since_break: u64,
    waited: Duration,
    in_window: u64,
}

impl BlobReader {
    pub(crate) fn new(
        session: Arc<Session>,
        at: usize,
        digest: Digest,
        size: u64,
        answer: Answer,
    ) -> Result<Self, Error> {
        check_length(&answer, size, 0)?;
        Ok(Self {
            session,
            at,
            digest,
            size,
            received: 0,
            skip: 0,
            body: answer.response.into_body(),
            host: answer.host,
            breaks: 0,
            since_break: 0,
            waited: Duration::ZERO,
            in_window: 0,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes; nothing after the last. Cancel-safe only by being dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let broken = match self.frame().await? {
                Ok(Some(data)) => match self.accept(data)? {
                    Some(data) => return Ok(Some(data)),
                    None => continue,
                },
                Ok(None) if self.received == self.size => return Ok(None),
                Ok(None) => format!("the body ended after {} of {} bytes", self.received, self.size),
                Err(why) => why,
            };
            self.resume(broken).await?;
        }
    }

    /// One frame, or why the connection broke; an outer error ends the blob.
    async fn frame(&mut self) -> Result<Result<Option<Bytes>, String>, Error> {
        let limit = self.session.timeouts().progress;
        loop {
            let start = Instant::now();
            let frame = if limit.is_zero() {
                self.body.frame().await
            } else {
                let left = limit.saturating_sub(self.waited);
                match tokio::time::timeout(left, self.body.frame()).await {
                    Ok(frame) => frame,
                    Err(_) => {
                        return Err(Error::registry_unavailable(format!(
                            "{}: no progress for {limit:?}: {} bytes came, {} of {} in all",
                            self.host, self.in_window, self.received, self.size
                        )));
                    }
                }
            };
            self.waited += start.elapsed();
            match frame {
                None => return Ok(Ok(None)),
                Some(Err(e)) => return Ok(Err(chain(&e))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.in_window += data.len() as u64;
                        if self.in_window >= WINDOW {
                            self.in_window = 0;
                            self.waited = Duration::ZERO;
                        }
                        return Ok(Ok(Some(data)));
                    }
                }
            }
        }
    }

    fn accept(&mut self, mut data: Bytes) -> Result<Option<Bytes>, Error> {
        if self.skip > 0 {
            let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(data.len());
            drop(data.split_to(known));
            self.skip -= known as u64;
        }
        if data.is_empty() {
            return Ok(None);
        }
        self.received += data.len() as u64;
        self.since_break += data.len() as u64;
        if self.received > self.size {
            return Err(Error::new(
                Kind::DataLoss,
                format!(
                    "{} sends more than the {} bytes the manifest says",
                    self.host, self.size
                ),
            ));
        }
        Ok(Some(data))
    }

    async fn resume(&mut self, why: String) -> Result<(), Error> {
        let earned = u32::try_from(self.since_break / EARNED_BY).unwrap_or(u32::MAX);
        self.breaks = self.breaks.saturating_sub(earned) + 1;
        self.since_break = 0;
        let broken = || Error::registry_unavailable(format!("{}: {why}", self.host));
        if self.breaks > RESUMES {
            return Err(broken().within(format!("broken {} times", self.breaks)));
        }
        tracing::debug!(blob = %self.digest, at = self.received, why, "a download broke, resuming");
        tokio::time::sleep(Duration::from_millis(100u64 << self.breaks.min(6))).await;
        let answer = self
            .session
            .open_blob(self.at, self.digest, self.received)
            .await
            .map_err(|e| {
                // A registry that knows no ranges past the end, or lost the blob: the break is the cause.
                if e.kind() == Kind::Internal { broken() } else { e }
            })?;
        check_length(&answer, self.size, self.received)?;
        self.skip = if answer.response.status() == StatusCode::PARTIAL_CONTENT {
            0
        } else {
            self.received
        };
        self.host = answer.host;
        self.body = answer.response.into_body();
        Ok(())
    }
}

/// Believes a 206 only when it says that it starts where we asked, and refuses early what
/// announces another length than the manifest.
fn check_length(answer: &Answer, size: u64, offset: u64) -> Result<(), Error> {
    let headers = answer.response.headers();
    let lie = |what: String| Err(Error::new(Kind::DataLoss, format!("{} {what}", answer.host)));
    if answer.response.status() == StatusCode::PARTIAL_CONTENT {
        return match content_range(headers) {
            Some((start, total)) if start == offset && total.is_none_or(|t| t == size) => Ok(()),
            _ => lie(format!(
                "answered a range other than the one asked for, from byte {offset} of {size}"
            )),
        };
    }
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|t| t.parse::<u64>().ok());
    match length {
        Some(length) if length != size => lie(format!("announces {length} bytes where the manifest says {size}")),
        _ => Ok(()),
    }
}

/// Start and total of `bytes <start>-<end>/<total|*>`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _end) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.trim().parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
            content_range(&headers)
        };
        assert_eq!(of("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(of("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "bytes */10", "items 5-9/10", "bytes 5-9", "bytes x-9/10"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
