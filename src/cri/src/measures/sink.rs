//! Where the metrics of one pod or container are put together.

use proto::cri::{Metric, UInt64Value};

use super::table::{BASE, Measure};

/// The metrics of one object, all with its labels and of one time.
pub(super) struct Sink {
    base: [String; BASE.len()],
    timestamp: i64,
    metrics: Vec<Metric>,
}

impl Sink {
    /// An empty one. `base` are the values of the labels that every metric has.
    pub(super) fn new(base: [String; BASE.len()], timestamp: i64) -> Self {
        Self {
            base,
            timestamp,
            metrics: Vec::new(),
        }
    }

    /// Adds a value, unless the kernel did not tell it.
    pub(super) fn put(&mut self, measure: &Measure, labels: &[&str], value: Option<u64>) {
        debug_assert_eq!(labels.len(), measure.labels.len(), "{}", measure.name);
        let Some(value) = value else { return };
        let labels = labels.iter().map(|&label| label.to_owned());
        self.metrics.push(Metric {
            name: measure.name.to_owned(),
            timestamp: self.timestamp,
            metric_type: measure.kind.into(),
            label_values: self.base.iter().cloned().chain(labels).collect(),
            value: Some(UInt64Value { value }),
        });
    }

    /// Adds a value without labels of its own.
    pub(super) fn plain(&mut self, measure: &Measure, value: Option<u64>) {
        self.put(measure, &[], value);
    }

    /// Adds nanoseconds as seconds: CRI has whole numbers only.
    pub(super) fn seconds(&mut self, measure: &Measure, nanoseconds: Option<u64>) {
        self.put(measure, &[], nanoseconds.map(|value| value / 1_000_000_000));
    }

    /// What was put in.
    pub(super) fn metrics(self) -> Vec<Metric> {
        self.metrics
    }
}
