//! Rows, percentiles, the table and the JSON.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    bulkhead: [f64; 2],
    peer: [f64; 2],
}

impl Row {
    /// From the samples of Bulkhead and of the peer. Units that end in `/s` are better when larger.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, samples: [Vec<f64>; 2]) -> Self {
        let rate = unit.ends_with("/s");
        let [bulkhead, peer] = samples.map(|samples| percentiles(samples, rate));
        Self {
            name: name.into(),
            unit,
            bulkhead,
            peer,
        }
    }

    fn ratio(&self) -> f64 {
        if self.unit.ends_with("/s") {
            self.bulkhead[0] / self.peer[0]
        } else {
            self.peer[0] / self.bulkhead[0]
        }
    }

    fn json(&self) -> Value {
        let pair = |[p50, p99]: [f64; 2]| json!({"p50": rounded(p50), "p99": rounded(p99)});
        json!({"name": self.name, "unit": self.unit, "bulkhead": pair(self.bulkhead), "peer": pair(self.peer), "ratio": rounded(self.ratio())})
    }
}

/// One line of what the kernel alone takes, with Bulkhead's figure beside it.
#[derive(Debug)]
pub(crate) struct Alone {
    name: String,
    kernel: [f64; 2],
    bulkhead: [f64; 2],
}

impl Alone {
    pub(crate) fn new(name: impl Into<String>, kernel: Vec<f64>, bulkhead: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            kernel: percentiles(kernel, false),
            bulkhead: percentiles(bulkhead, false),
        }
    }

    /// How many times as long as the kernel alone Bulkhead takes.
    fn times(&self) -> f64 {
        self.bulkhead[0] / self.kernel[0]
    }

    fn json(&self) -> Value {
        let pair = |[p50, p99]: [f64; 2]| json!({"p50": rounded(p50), "p99": rounded(p99)});
        json!({"name": self.name, "unit": "ms", "bulkhead": pair(self.bulkhead), "kernel": pair(self.kernel), "times": rounded(self.times())})
    }
}

/// The median, by nearest rank.
pub(crate) fn median(samples: &[f64]) -> f64 {
    percentiles(samples.to_vec(), false)[0]
}

/// The median and the value that all but one in a hundred are at least as good as (nearest rank).
fn percentiles(mut samples: Vec<f64>, larger_is_better: bool) -> [f64; 2] {
    samples.sort_by(f64::total_cmp);
    if larger_is_better {
        samples.reverse();
    }
    [rank(&samples, 50), rank(&samples, 99)]
}

fn rank(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    alone: Vec<Alone>,
}

impl Report {
    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn extend(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
    }

    pub(crate) fn alone(&mut self, rows: Vec<Alone>) {
        self.alone.extend(rows);
    }

    pub(crate) fn json(&self) -> Result<String> {
        let rows = self.rows.iter().map(Row::json);
        let rows: Vec<Value> = rows.chain(self.alone.iter().map(Alone::json)).collect();
        Ok(format!("{}\n", serde_json::to_string_pretty(&json!({"rows": rows}))?))
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "\n{:<20} {:>7} {:>21} {:>21} {:>8}\n",
            "", "", "Bulkhead", "containerd + runc", ""
        );
        let line = |text: &mut String, words: [&str; 7]| {
            let [name, unit, a, b, c, d, ratio] = words;
            // Writing to a String does not fail.
            writeln!(text, "{name:<20} {unit:>7} {a:>10} {b:>10} {c:>10} {d:>10} {ratio:>8}").ok();
        };
        line(&mut text, ["", "unit", "p50", "p99", "p50", "p99", "ratio"]);
        for row in &self.rows {
            let values =
                [row.bulkhead[0], row.bulkhead[1], row.peer[0], row.peer[1]].map(|value| format!("{value:.2}"));
            let ratio = format!("{:.2}", row.ratio());
            line(
                &mut text,
                [
                    &row.name, row.unit, &values[0], &values[1], &values[2], &values[3], &ratio,
                ],
            );
        }
        if !self.alone.is_empty() {
            text.push('\n');
            line(&mut text, ["", "", "Bulkhead", "", "kernel alone", "", "times"]);
        }
        for row in &self.alone {
            let values = [row.bulkhead[0], row.bulkhead[1], row.kernel[0], row.kernel[1]];
            let values = values.map(|value| format!("{value:.2}"));
            let times = format!("{:.2}", row.times());
            line(
                &mut text,
                [&row.name, "ms", &values[0], &values[1], &values[2], &values[3], &times],
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentiles(samples.clone(), false), [50.0, 99.0]);
        assert_eq!(percentiles(samples, true), [51.0, 2.0]);
        assert_eq!(percentiles(vec![7.0], false), [7.0, 7.0]);
    }

    #[test]
    fn a_ratio_above_one_is_good() {
        assert!(Row::new("pod_up", "ms", [vec![10.0], vec![100.0]]).ratio() > 9.9);
        assert!(Row::new("pods_per_second", "pods/s", [vec![100.0], vec![10.0]]).ratio() > 9.9);
    }
}
