//! The Chrome trace format ("Trace Event Format"): complete events in microseconds, a thread a task.

use anyhow::Result;
use serde_json::{Value, json};

use super::Step;
use super::line::Lines;

pub(super) fn draw(lines: &Lines, steps: &[Step]) -> Result<String> {
    let zero = lines.whole.begin;
    let mut events: Vec<Value> = Vec::new();
    let mut name = |tid: u32, text: &str| {
        events.push(json!({"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": text}}));
        events.push(
            json!({"ph": "M", "pid": 1, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": events.len()}}),
        );
    };
    name(0, "client");
    for line in &lines.lines {
        name(line.task, &line.label);
    }
    let mut span = |tid: u32, name: &str, kind: &str, begin: u64, end: u64, args: Value| {
        events.push(json!({
            "ph": "X", "pid": 1, "tid": tid, "name": name, "cat": kind,
            "ts": begin.saturating_sub(zero), "dur": end.saturating_sub(begin), "args": args,
        }));
    };
    for step in steps {
        span(0, step.name, "rpc", step.begin, step.end, json!({}));
    }
    for line in &lines.lines {
        for call in &line.calls {
            let args = json!({"arguments": call.arguments, "result": call.result});
            span(line.task, &call.name, "call", call.span.begin, call.span.end, args);
        }
        for away in &line.away {
            let (name, kind) = match &away.reason {
                Some(reason) => (reason.as_str(), "asleep"),
                None => ("waits for a processor", "queued"),
            };
            span(line.task, name, kind, away.span.begin, away.span.end, json!({}));
        }
        for (at, text) in &line.notes {
            span(line.task, text, "note", *at, *at, json!({}));
        }
    }
    Ok(serde_json::to_string(
        &json!({"traceEvents": events, "displayTimeUnit": "ms"}),
    )?)
}
