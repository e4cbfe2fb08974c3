//! `cargo xtask budget`: the quick bench, and whether each ratio to the peer is still what it was worth.
//!
//! The table is what Bulkhead is to reach beside containerd v2.4.2 with runc v1.5.2. A quick run on a busy
//! machine is noisy, so four fifths of a ratio are enough here; the whole table is shown by a whole
//! run of `hack/bench`. A row that the bench did not make is a failure too: nothing is kept by not being asked.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

use crate::run;

/// Of a ratio of [`BUDGETS`], how much must be there.
const ENOUGH: f64 = 0.8;

/// A pod's way up at its worst (p99), in medians.
const WORST: f64 = 2.5;

/// Which figure of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    P50,
    P99,
}

use Figure::{P50, P99};

/// Rows of the bench and the least ratio of each. `_N` stands for the largest number of pods of the run.
const BUDGETS: [(&str, Figure, f64); 19] = [
    ("pod_run", P50, 15.0),
    ("pod_run_reference", P50, 2.5),
    ("pod_up", P50, 10.0),
    ("pod_up", P99, 10.0),
    ("pod_down", P50, 10.0),
    ("exec_sync", P50, 6.0),
    ("pods_per_second", P50, 10.0),
    ("container_stats_30", P50, 15.0),
    ("pod_stats_30", P50, 10.0),
    ("list_containers_100", P50, 3.0),
    ("list_pods_100", P50, 3.0),
    ("memory_per_pod", P50, 25.0),
    ("daemon_rss_30", P50, 3.0),
    ("daemon_rss_N", P50, 3.0),
    ("pull_gzip", P50, 2.0),
    ("pull_zstd", P50, 2.0),
    ("pull_peak", P50, 2.0),
    ("logs", P50, 3.0),
    ("start_N", P50, 10.0),
];

/// Runs the bench, or reads what `json` has of an earlier run. Whether all is within.
pub(crate) fn run(root: &Path, json: Option<&Path>) -> anyhow::Result<bool> {
    let own = root.join("target/bench/budget.json");
    let path = json.unwrap_or(&own);
    if json.is_none() {
        std::fs::create_dir_all(root.join("target/bench"))?;
        let mut bench = Command::new(root.join("hack/bench"));
        run::wait(bench.current_dir(root).args(["--quick", "--json"]).arg(path))?;
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let report: Value = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    let rows = report
        .get("rows")
        .and_then(Value::as_array)
        .context("the report has rows")?;
    let lines = judge(rows);
    for line in &lines {
        println!("{line}");
    }
    Ok(lines.iter().all(|line| !line.starts_with("over")))
}

/// One line for each budget; what is over it begins with "over".
fn judge(rows: &[Value]) -> Vec<String> {
    let mut lines: Vec<String> = BUDGETS
        .iter()
        .map(|(name, figure, least)| line(rows, name, *figure, *least))
        .collect();
    let worst =
        find(rows, "pod_up").and_then(|row| Some(number(row, "bulkhead", P99)? / number(row, "bulkhead", P50)?));
    lines.push(match worst {
        Some(worst) if worst * ENOUGH <= WORST => format!("fine  pod_up p99 is {worst:.2} × p50, of {WORST} at most"),
        Some(worst) => format!("over  pod_up p99 is {worst:.2} × p50, of {WORST} at most"),
        None => "over  pod_up is not in the report".to_owned(),
    });
    lines
}

fn line(rows: &[Value], name: &str, figure: Figure, least: f64) -> String {
    let Some(row) = find(rows, name) else {
        return format!("over  {name} is not in the report");
    };
    let (Some(bulkhead), Some(peer)) = (number(row, "bulkhead", figure), number(row, "peer", figure)) else {
        return format!("over  {name} has no figures");
    };
    let is_rate = row
        .get("unit")
        .and_then(Value::as_str)
        .is_some_and(|unit| unit.ends_with("/s"));
    let ratio = if is_rate { bulkhead / peer } else { peer / bulkhead };
    let verdict = if ratio >= least * ENOUGH { "fine" } else { "over" };
    let which = if figure == P99 { " p99" } else { "" };
    format!("{verdict}  {name}{which}: {ratio:.2} × better than the peer, {least} are wanted")
}

/// The row called `name`; `x_N` is the one of that name with the largest number.
fn find<'a>(rows: &'a [Value], name: &str) -> Option<&'a Value> {
    let of = |row: &'a Value| row.get("name").and_then(Value::as_str).unwrap_or_default();
    let Some(prefix) = name.strip_suffix('N') else {
        return rows.iter().find(|row| of(row) == name);
    };
    rows.iter()
        .filter_map(|row| Some((of(row).strip_prefix(prefix)?.parse::<u32>().ok()?, row)))
        .max_by_key(|(pods, _)| *pods)
        .map(|(_, row)| row)
}

fn number(row: &Value, side: &str, figure: Figure) -> Option<f64> {
    let key = if figure == P99 { "p99" } else { "p50" };
    row.get(side)?.get(key)?.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A report that is exactly on every budget.
    fn rows() -> Vec<Value> {
        let mut rows: Vec<Value> = Vec::new();
        for (name, figure, least) in BUDGETS.iter().filter(|(_, figure, _)| *figure == P50) {
            let name = name.replace("_N", "_100");
            let is_rate = ["logs", "pods_per_second"].contains(&name.as_str());
            let (unit, peer) = if is_rate { ("x/s", 1.0 / least) } else { ("ms", *least) };
            assert_eq!(*figure, P50);
            let both = |value: f64| json!({"p50": value, "p99": value});
            rows.push(json!({"name": name, "unit": unit, "bulkhead": both(1.0), "peer": both(peer)}));
        }
        rows
    }

    fn over(rows: &[Value]) -> Vec<String> {
        judge(rows)
            .into_iter()
            .filter(|line| line.starts_with("over"))
            .collect()
    }

    fn set(rows: &mut [Value], name: &str, side: &str, key: &str, value: f64) {
        let row = rows.iter_mut().find(|row| row["name"] == name).unwrap();
        row[side][key] = json!(value);
    }

    #[test]
    fn what_is_on_its_budget_is_fine() {
        assert_eq!(over(&rows()), Vec::<String>::new());
    }

    #[test]
    fn what_is_below_four_fifths_is_over() {
        let mut rows = rows();
        set(&mut rows, "pod_down", "bulkhead", "p50", 1.2);
        assert_eq!(over(&rows), Vec::<String>::new());
        set(&mut rows, "pod_down", "bulkhead", "p50", 1.3);
        set(&mut rows, "logs", "bulkhead", "p50", 0.7);
        set(&mut rows, "daemon_rss_100", "peer", "p50", 2.0);
        let found = over(&rows);
        assert!(
            found[0].contains("pod_down") && found[1].contains("daemon_rss_N") && found[2].contains("logs"),
            "{found:?}"
        );
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_long_tail_and_a_missing_row_are_over() {
        let mut rows = rows();
        set(&mut rows, "pod_up", "bulkhead", "p99", 3.2);
        set(&mut rows, "pod_up", "peer", "p99", 100.0);
        rows.retain(|row| row["name"] != "pull_peak");
        let found = over(&rows);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("pull_peak") && found[1].contains("3.20"), "{found:?}");
    }
}
