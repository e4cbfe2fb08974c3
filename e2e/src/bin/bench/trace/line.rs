//! Events → one line for each task: its calls, when it was on a processor, and what it slept for.

use std::collections::{BTreeMap, HashMap};

use super::parse::{Event, What};
use super::{Micros, Step};

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) begin: Micros,
    pub(super) end: Micros,
}

impl Span {
    pub(super) fn length(self) -> Micros {
        self.end.saturating_sub(self.begin)
    }

    /// What both have.
    pub(super) fn cut(self, other: Self) -> Self {
        let begin = self.begin.max(other.begin);
        Self {
            begin,
            end: self.end.min(other.end).max(begin),
        }
    }
}

/// A time away from the processor.
#[derive(Debug, Clone)]
pub(super) struct Away {
    pub(super) span: Span,
    /// What it slept for; none where it only had to wait for a processor.
    pub(super) reason: Option<String>,
}

/// A system call.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: String,
    pub(super) result: String,
    pub(super) span: Span,
}

/// Calls that wait for somebody else: their sleep is not work.
const WAITS: [&str; 17] = [
    "epoll_wait",
    "epoll_pwait",
    "futex",
    "poll",
    "ppoll",
    "wait4",
    "waitid",
    "nanosleep",
    "clock_nanosleep",
    "recvmsg",
    "recvfrom",
    "read",
    "pselect6",
    "accept4",
    "exit_group",
    "exit",
    "sigsuspend",
];

impl Call {
    /// Whether a sleep in it is a wait for another process or for time.
    pub(super) fn is_wait(&self) -> bool {
        WAITS.contains(&self.name.as_str())
    }
}

/// One task.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    pub(super) task: u32,
    pub(super) label: String,
    pub(super) begin: Micros,
    pub(super) end: Micros,
    pub(super) calls: Vec<Call>,
    pub(super) away: Vec<Away>,
    pub(super) notes: Vec<(Micros, String)>,
}

/// Microseconds of one task within some span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shares {
    /// On a processor, outside the kernel.
    pub(super) own: Micros,
    /// On a processor, in a system call.
    pub(super) kernel: Micros,
    /// Asleep in a call that is no wait for others.
    pub(super) asleep: Micros,
    /// Ready, and waiting for a processor.
    pub(super) queued: Micros,
}

impl Line {
    /// How its time within `within` was spent.
    pub(super) fn shares(&self, within: Span) -> Shares {
        let alive = Span {
            begin: self.begin,
            end: self.end,
        }
        .cut(within);
        let mut shares = Shares::default();
        let (mut away, mut off_in_calls, mut in_calls) = (0, 0, 0);
        for one in &self.away {
            let length = one.span.cut(alive).length();
            away += length;
            if one.reason.is_none() {
                shares.queued += length;
            }
        }
        for call in &self.calls {
            in_calls += call.span.cut(alive).length();
            for one in self.away_in(call) {
                let length = one.span.cut(call.span).cut(alive).length();
                off_in_calls += length;
                if one.reason.is_some() && !call.is_wait() {
                    shares.asleep += length;
                }
            }
        }
        shares.kernel = in_calls.saturating_sub(off_in_calls);
        shares.own = alive.length().saturating_sub(away).saturating_sub(shares.kernel);
        shares
    }

    /// The times away that lie in `call`.
    pub(super) fn away_in<'a>(&'a self, call: &'a Call) -> impl Iterator<Item = &'a Away> {
        let from = self.away.partition_point(|away| away.span.end <= call.span.begin);
        self.away[from..]
            .iter()
            .take_while(|away| away.span.begin < call.span.end)
    }
}

/// All lines, in the order in which the tasks first did something.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) lines: Vec<Line>,
    pub(super) whole: Span,
}

#[derive(Default)]
struct Open {
    call: Option<(String, String, Micros)>,
    away: Option<Left>,
}

/// A task that has left its processor.
struct Left {
    at: Micros,
    asleep: bool,
    reason: Option<String>,
    woken: Option<Micros>,
}

impl Lines {
    pub(super) fn of(events: &[Event], steps: &[Step]) -> Self {
        let whole = Span {
            begin: steps.first().map_or(0, |step| step.begin),
            end: steps
                .last()
                .map_or(0, |step| step.end)
                .max(events.last().map_or(0, |event| event.at)),
        };
        let mut made: BTreeMap<u32, (Line, Open)> = BTreeMap::new();
        let mut parents: HashMap<u32, u32> = HashMap::new();
        for event in events.iter().filter(|event| event.task != 0) {
            let (line, open) = made.entry(event.task).or_insert_with(|| {
                let line = Line {
                    task: event.task,
                    label: event.comm.clone(),
                    begin: event.at,
                    ..Line::default()
                };
                (line, Open::default())
            });
            line.end = event.at;
            if let What::Fork(child) = &event.what {
                parents.insert(*child, event.task);
            }
            take(line, open, event);
        }
        let mut lines: Vec<Line> = made
            .into_values()
            .map(|(mut line, mut open)| {
                if let Some(left) = open.away.take() {
                    line.away.extend(left.until(whole.end));
                }
                close_call(&mut line, &mut open, whole.end, String::new());
                line.begin = line.begin.max(whole.begin);
                line.end = line.end.max(line.begin);
                line
            })
            .filter(|line| !line.calls.is_empty())
            .collect();
        lines.sort_by_key(|line| line.begin);
        let names: HashMap<u32, String> = lines.iter().map(|line| (line.task, line.label.clone())).collect();
        for line in &mut lines {
            if let Some(parent) = parents.get(&line.task).and_then(|parent| names.get(parent)) {
                line.label = format!("{} < {parent}", line.label);
            }
        }
        Self { lines, whole }
    }
}

fn take(line: &mut Line, open: &mut Open, event: &Event) {
    match &event.what {
        What::Enter(name, arguments) => open.call = Some((name.clone(), arguments.clone(), event.at)),
        What::Leave(_, result) => close_call(line, open, event.at, result.clone()),
        What::Exec(path) => {
            line.label = path.rsplit('/').next().unwrap_or(path).to_owned();
            line.notes.push((event.at, format!("executes {path}")));
        }
        What::End => close_call(line, open, event.at, String::new()),
        What::Out { asleep } => {
            open.away = Some(Left {
                at: event.at,
                asleep: *asleep,
                reason: None,
                woken: None,
            });
        }
        What::Stack(frames) => {
            if let Some(left) = &mut open.away {
                left.reason = Some(reason_of(frames));
            }
        }
        What::Woken => {
            if let Some(left) = &mut open.away {
                left.woken.get_or_insert(event.at);
            }
        }
        What::In => {
            if let Some(left) = open.away.take() {
                line.away.extend(left.until(event.at));
            }
        }
        What::Note(text) => line.notes.push((event.at, text.clone())),
        What::Fork(child) => line.notes.push((event.at, format!("starts task {child}"))),
    }
    // The name follows what a process calls itself.
    if !event.comm.is_empty() && !event.comm.starts_with('<') && !matches!(event.what, What::In | What::Woken) {
        line.label.clone_from(&event.comm);
    }
}

impl Left {
    /// Asleep until it was woken, then in the queue until it is back.
    fn until(self, back: Micros) -> impl Iterator<Item = Away> {
        let woken = if self.asleep {
            self.woken.unwrap_or(back)
        } else {
            self.at
        };
        let away = |begin, end, reason| Away {
            span: Span { begin, end },
            reason,
        };
        let reason = self.reason.unwrap_or_else(|| "asleep".to_owned());
        let sleep = away(self.at, woken, Some(reason));
        let queue = away(woken, back, None);
        [sleep, queue].into_iter().filter(|one| one.span.length() > 0)
    }
}

fn close_call(line: &mut Line, open: &mut Open, at: Micros, result: String) {
    if let Some((name, arguments, begin)) = open.call.take() {
        line.calls.push(Call {
            name,
            arguments,
            result,
            span: Span { begin, end: at },
        });
    }
}

/// The first functions that say why: not the scheduler's own, not the ways into the kernel.
fn reason_of(frames: &[String]) -> String {
    const DULL: [&str; 12] = [
        "schedule",
        "trace_",
        "event_",
        "__traceiter",
        "preempt",
        "do_syscall",
        "entry_SYSCALL",
        "x64_sys",
        "__x64_sys",
        "wait_for_c",
        "__wait_for_c",
        "do_wait_for",
    ];
    let name = |frame: &String| frame.split('+').next().unwrap_or_default().trim().to_owned();
    let telling: Vec<String> = frames
        .iter()
        .map(name)
        .filter(|name| {
            !name.is_empty()
                && !DULL
                    .iter()
                    .any(|dull| name.trim_start_matches('_').starts_with(dull.trim_start_matches('_')))
        })
        .take(3)
        .collect();
    if telling.is_empty() {
        "asleep".to_owned()
    } else {
        telling.join(" < ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: Micros, what: What) -> Event {
        Event {
            at,
            task: 5,
            comm: "a".into(),
            what,
        }
    }

    #[test]
    fn time_is_told_apart() {
        let frames = ["__schedule", "schedule_timeout", "synchronize_rcu", "cgroup_rmdir"].map(str::to_owned);
        let events = [
            event(0, What::Enter("rmdir".into(), String::new())),
            event(10, What::Out { asleep: true }),
            event(10, What::Stack(frames.into())),
            event(36, What::Woken),
            event(40, What::In),
            event(50, What::Leave("rmdir".into(), "0x0".into())),
            event(60, What::Out { asleep: false }),
            event(75, What::In),
            event(80, What::Enter("read".into(), String::new())),
            event(80, What::Out { asleep: true }),
            event(95, What::In),
            event(100, What::End),
        ];
        let steps = [Step {
            name: "x",
            begin: 0,
            end: 100,
        }];
        let lines = Lines::of(&events, &steps);
        let line = &lines.lines[0];
        assert_eq!(line.away[0].reason.as_deref(), Some("synchronize_rcu < cgroup_rmdir"));
        let shares = line.shares(lines.whole);
        assert_eq!(
            shares,
            Shares {
                own: 15,
                kernel: 25,
                asleep: 26,
                queued: 19
            }
        );
        assert_eq!(line.shares(Span { begin: 0, end: 20 }).asleep, 10);
    }
}
