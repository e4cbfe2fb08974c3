//! Counters of CRI calls, by operation: how many, how many failed and with what code, how
//! long they took.
//!
//! The name of an operation comes from the client, so only names that a service answered
//! are taken; the rest is `unknown`. Else a client could make a metric of each word.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Operation = [(&'static str, String); 1];
type Failure = [(&'static str, String); 2];

/// 1 ms to 2 min: a list takes less than the first, a pull may take the last.
const SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 120.0,
];
/// gRPC's UNIMPLEMENTED.
const UNIMPLEMENTED: &str = "12";

/// The counters.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    total: Family<Operation, Counter>,
    errors: Family<Failure, Counter>,
    seconds: Family<Operation, Histogram, fn() -> Histogram>,
}

impl Calls {
    /// New counters, in `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let calls = Self {
            total: Family::default(),
            errors: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        };
        let registry = registry.sub_registry_with_prefix("bulkhead_operations");
        // The text format adds _total to the names of counters.
        registry.register("calls", "CRI calls that ended", calls.total.clone());
        registry.register("errors", "CRI calls that failed, by gRPC code", calls.errors.clone());
        registry.register(
            "seconds",
            "Time that CRI calls took until their answer began",
            calls.seconds.clone(),
        );
        calls
    }

    /// A call ended: its path, the gRPC code of a failure, its time.
    pub(crate) fn ended(&self, path: &str, code: Option<&str>, took: Duration) {
        let code = code.filter(|code| *code != "0");
        let name = match code {
            Some(UNIMPLEMENTED) => "unknown",
            _ => path.rsplit('/').next().unwrap_or_default(),
        };
        let operation = [("operation", name.to_owned())];
        self.total.get_or_create(&operation).inc();
        self.seconds.get_or_create(&operation).observe(took.as_secs_f64());
        if let Some(code) = code {
            let [operation] = operation;
            self.errors.get_or_create(&[operation, ("code", code.to_owned())]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn calls_and_failures_are_counted_by_name() {
        let mut registry = Registry::default();
        let calls = Calls::register(&mut registry);
        for (method, code) in [
            ("Version", None),
            ("Version", Some("0")),
            ("PullImage", Some("5")),
            ("Zzz", Some("12")),
        ] {
            calls.ended(
                &format!("/runtime.v1.RuntimeService/{method}"),
                code,
                Duration::from_millis(3),
            );
        }
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "bulkhead_operations_calls_total{operation=\"Version\"} 2",
            "bulkhead_operations_calls_total{operation=\"unknown\"} 1",
            "bulkhead_operations_errors_total{operation=\"PullImage\",code=\"5\"} 1",
            "bulkhead_operations_seconds_bucket{le=\"0.0025\",operation=\"Version\"} 0",
            "bulkhead_operations_seconds_bucket{le=\"0.005\",operation=\"Version\"} 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("Zzz") && !text.contains("code=\"0\""), "{text}");
    }
}
