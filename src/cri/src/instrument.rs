//! Around every RPC: a span with the trace id and what the request is about, one log line with the
//! outcome, the caller's deadline, and the error as a gRPC status. The only place of this
//! crate that logs a verb's error.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spec::Kind;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::field::Empty;
use tracing::{Instrument, Level, Span};

use crate::error::{Error, cut};
use crate::runtime::Runtime;
use crate::subject::{About, Subject};
use crate::trace;

/// Causes in the log are cut: they may hold the caller's arguments.
const LONGEST_CAUSE: usize = 4096;

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
    let (number, unit) = text.split_at_checked(text.len() - 1)?;
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
pub(crate) async fn rpc<Q, T, F>(
    verb: &'static str,
    weight: Weight,
    rt: &Arc<Runtime>,
    request: Request<Q>,
    work: impl FnOnce(Arc<Runtime>, Q) -> F,
) -> Result<Response<T>, Status>
where
    Q: About,
    F: Future<Output = Result<T, Error>>,
{
    let (metadata, _, message) = request.into_parts();
    let span = span(verb, &trace::id(&metadata), &message.about(rt));
    observed(verb, weight, span, &metadata, work(Arc::clone(rt), message)).await
}

/// The span of an RPC. A verb that makes an object records its id: `pod_id`, `container_id`.
fn span(verb: &'static str, trace_id: &str, subject: &Subject) -> Span {
    let span = tracing::info_span!(
        "rpc",
        verb,
        trace_id,
        pod = Empty,
        pod_id = Empty,
        container = Empty,
        container_id = Empty,
        image = Empty
    );
    for (field, value) in [
        ("pod", &subject.pod),
        ("pod_id", &subject.pod_id),
        ("container", &subject.container),
        ("container_id", &subject.container_id),
        ("image", &subject.image),
    ] {
        if !value.is_empty() {
            span.record(field, value.as_str());
        }
    }
    span
}

async fn observed<T>(
    verb: &'static str,
    weight: Weight,
    span: Span,
    metadata: &MetadataMap,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Response<T>, Status> {
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
        let here = || span("Test", "0", &Subject::default());
        let status = observed("Test", Weight::Look, here(), &metadata, never)
            .await
            .unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        let failed = async { Err::<(), _>(Error::not_found("no such thing")) };
        let status = observed("Test", Weight::Look, here(), &MetadataMap::new(), failed)
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::NotFound, "no such thing")
        );
    }
}
