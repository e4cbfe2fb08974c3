//! Where the time of each step went, in words: the tasks that worked in it, and what they slept for.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Step;
use super::line::{Line, Lines, Span};

/// Less than this is not worth a line.
const LEAST: u64 = 50;
const MOST_SLEEPS: usize = 8;
const MOST_CALLS: usize = 8;

pub(super) fn text(lines: &Lines, steps: &[Step]) -> String {
    let mut text = String::from(
        "\nµs of each task: own code, kernel on a processor, asleep in the kernel, waiting for a processor\n",
    );
    for step in steps {
        let within = Span {
            begin: step.begin,
            end: step.end,
        };
        // Writing to a String does not fail.
        writeln!(text, "\n{} {} µs", step.name, within.length()).ok();
        for line in &lines.lines {
            let shares = line.shares(within);
            if shares.own + shares.kernel + shares.asleep >= LEAST {
                let label: String = line.label.chars().take(34).collect();
                writeln!(
                    text,
                    "  {label:<34} {:>6} {:>6} {:>6} {:>6}",
                    shares.own, shares.kernel, shares.asleep, shares.queued
                )
                .ok();
            }
        }
        for (what, (count, micros)) in most(calls(&lines.lines, within), MOST_CALLS) {
            writeln!(text, "    call  {micros:>6} µs {count:>3} × {what}").ok();
        }
        for (what, (count, micros)) in most(sleeps(&lines.lines, within), MOST_SLEEPS) {
            writeln!(text, "    sleep {micros:>6} µs {count:>3} × {what}").ok();
        }
    }
    text
}

type Sums = BTreeMap<String, (u32, u64)>;

fn most(sums: Sums, count: usize) -> Vec<(String, (u32, u64))> {
    let mut all: Vec<_> = sums.into_iter().filter(|(_, (_, micros))| *micros >= LEAST).collect();
    all.sort_by_key(|(_, (_, micros))| std::cmp::Reverse(*micros));
    all.truncate(count);
    all
}

/// On a processor in the kernel, by call.
fn calls(lines: &[Line], within: Span) -> Sums {
    let mut sums = Sums::new();
    for line in lines {
        for call in &line.calls {
            let span = call.span.cut(within);
            let off: u64 = line.away_in(call).map(|away| away.span.cut(span).length()).sum();
            if span.length() > off {
                let sum = sums.entry(format!("{} of {}", call.name, line.label)).or_default();
                sum.0 += 1;
                sum.1 += span.length() - off;
            }
        }
    }
    sums
}

/// Sleeps in calls that do not wait for another process, by call and reason.
fn sleeps(lines: &[Line], within: Span) -> Sums {
    let mut sums = Sums::new();
    for line in lines {
        for call in line.calls.iter().filter(|call| !call.is_wait()) {
            for away in line.away_in(call) {
                let length = away.span.cut(call.span).cut(within).length();
                if let (Some(reason), true) = (&away.reason, length > 0) {
                    let sum = sums
                        .entry(format!("{} of {}: {reason}", call.name, line.label))
                        .or_default();
                    sum.0 += 1;
                    sum.1 += length;
                }
            }
        }
    }
    sums
}
