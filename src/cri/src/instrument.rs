//! Around every RPC: a span with a request id and what it is about, one log line with the
//! outcome, the caller's deadline, and the error as a gRPC status. The only place of this
//! crate that logs a verb's error.

use std::fmt::Display;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use spec::Kind;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};
use tracing::{Instrument, Level};

use crate::error::{Error, cut};

/// Names in the log are cut: they are the caller's, and a line is for people.
const LONGEST_NAME: usize = 512;
/// So are causes, which may hold the caller's arguments.
const LONGEST_CAUSE: usize = 4096;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Whether success is worth a line at the usual level: what changes something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Changes something.
    Verb,
    /// Only looks; the kubelet asks every second.
    Look,
}

/// The caller's deadline (gRPC over HTTP/2: `grpc-timeout: 10S`).
fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    if text.len() < 2 || text.len() > 9 {
        return None;
    }
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Runs an RPC. When the caller's deadline passes it is answered, and the verb's own task
/// goes on (or ends, where the verb belongs to its caller).
pub(crate) async fn rpc<T>(
    verb: &'static str,
    weight: Weight,
    about: impl Display,
    metadata: &MetadataMap,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Response<T>, Status> {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let about = about.to_string();
    let about = cut(&about, LONGEST_NAME);
    let span = tracing::info_span!("rpc", verb, id, %about);
    let started = Instant::now();
    let limit = deadline(metadata);
    let bounded = async {
        let Some(limit) = limit else { return work.await };
        match tokio::time::timeout(limit, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(
                Kind::DeadlineExceeded,
                format!(
                    "{verb} was not done within the caller's deadline of {limit:?}; it goes on where it can, retry to find its result"
                ),
            )),
        }
    };
    let outcome = bounded.instrument(span.clone()).await;
    let _entered = span.enter();
    let took = format_args!("{:.1?}", started.elapsed()).to_string();
    match outcome {
        Ok(reply) => {
            if weight == Weight::Verb {
                tracing::event!(Level::INFO, took, "done");
            } else {
                tracing::event!(Level::DEBUG, took, "done");
            }
            Ok(Response::new(reply))
        }
        Err(error) => {
            let text = error.to_string();
            let text = cut(&text, LONGEST_CAUSE);
            let quiet = matches!(error.kind(), Kind::NotFound) && weight == Weight::Look;
            if quiet {
                tracing::debug!(took, kind = %error.kind(), error = %text, "failed");
            } else {
                tracing::warn!(took, kind = %error.kind(), error = %text, "failed");
            }
            Err(error.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Option<Duration> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        deadline(&metadata)
    }

    #[test]
    fn deadlines_in_every_unit() {
        assert_eq!(with("10S"), Some(Duration::from_secs(10)));
        assert_eq!(with("999999u"), Some(Duration::from_micros(999_999)));
        assert_eq!(with("2M"), Some(Duration::from_secs(120)));
        for bad in ["S", "10", "xS", "1234567890S"] {
            assert_eq!(with(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_passed_deadline_is_said() {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "1m".parse().unwrap());
        let never = std::future::pending::<Result<(), Error>>();
        let status = rpc("Test", Weight::Look, "x", &metadata, never).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        let failed = async { Err::<(), _>(Error::not_found("no such thing")) };
        let status = rpc("Test", Weight::Look, "x", &MetadataMap::new(), failed)
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::NotFound, "no such thing")
        );
    }
}
