//! The text of ftrace → events, in the order of time.
//!
//! ```text
//!   bulkhead-812     [001] d..2. 12004.036387: sched_switch: prev_comm=… prev_pid=812 … prev_state=S ==> next_comm=… next_pid=0 …
//!   bulkhead-812     [001] ..... 12004.036427: sys_openat(dfd: ffffff9c, filename: 7ffd…)
//!   bulkhead-812     [001] ..... 12004.036459: sys_openat -> 0x9
//!   bulkhead-812     [001] d..2. 12004.036501: <stack trace>
//!  => __schedule
//!  => synchronize_rcu
//! ```

use super::Micros;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A system call began, with its arguments.
    Enter(String, String),
    /// It returned.
    Leave(String, String),
    /// A task was made.
    Fork(u32),
    /// A program was executed; its path.
    Exec(String),
    /// The task ended.
    End,
    /// It left the processor; asleep, or pushed off it.
    Out { asleep: bool },
    /// Where in the kernel it went to sleep, the innermost function first.
    Stack(Vec<String>),
    /// Somebody woke it: from here on it waits for a processor.
    Woken,
    /// It came back to a processor.
    In,
    /// Something worth a word.
    Note(String),
}

/// One thing that one task did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) at: Micros,
    pub(super) task: u32,
    /// The task's name at that time.
    pub(super) comm: String,
    pub(super) what: What,
}

/// All that is understood of `text`.
pub(super) fn events(text: &str) -> Vec<Event> {
    let mut found: Vec<Event> = Vec::new();
    for line in text.lines() {
        if let Some(function) = line.strip_prefix(" => ") {
            if let Some(Event {
                what: What::Stack(frames),
                ..
            }) = found.last_mut()
            {
                frames.push(function.trim().to_owned());
            }
            continue;
        }
        record(line, &mut found);
    }
    found
}

/// `comm-pid [cpu] flags seconds: what`, into one event or two.
fn record(line: &str, found: &mut Vec<Event>) -> Option<()> {
    let (head, rest) = split_at_cpu(line)?;
    let (comm, pid) = head.trim().rsplit_once('-')?;
    let task: u32 = pid.trim().parse().ok()?;
    let (_flags, rest) = rest.split_once(' ')?;
    // Padded while the clock is young.
    let (time, text) = rest.trim_start().split_once(' ')?;
    let text = text.trim_start();
    let at = micros(time.trim_end_matches(':'))?;
    let mut push = |task, comm: &str, what| {
        found.push(Event {
            at,
            task,
            comm: comm.to_owned(),
            what,
        });
    };
    if let Some(switch) = text.strip_prefix("sched_switch: ") {
        let (from, to) = switch.split_once(" ==> ")?;
        let asleep = !value(from, "prev_state=")?.starts_with('R');
        push(task, comm, What::Out { asleep });
        let next: u32 = value(to, "next_pid=")?.parse().ok()?;
        let (_, name) = to.split_once("next_comm=")?;
        let (name, _) = name.split_once(" next_pid=")?;
        push(next, name, What::In);
        return Some(());
    }
    if let Some(woken) = text.strip_prefix("sched_waking: ") {
        let (name, rest) = woken.strip_prefix("comm=")?.split_once(" pid=")?;
        push(rest.split(' ').next()?.parse().ok()?, name, What::Woken);
        return Some(());
    }
    push(task, comm, what(text)?);
    Some(())
}

fn what(text: &str) -> Option<What> {
    if text.starts_with("<stack trace>") {
        return Some(What::Stack(Vec::new()));
    }
    if let Some((name, result)) = text.strip_prefix("sys_").and_then(|call| call.split_once(" -> ")) {
        return Some(What::Leave(name.to_owned(), result.to_owned()));
    }
    if let Some((name, arguments)) = text.strip_prefix("sys_").and_then(|call| call.split_once('(')) {
        return Some(What::Enter(name.to_owned(), arguments.trim_end_matches(')').to_owned()));
    }
    let (event, fields) = text.split_once(": ")?;
    match event {
        "sched_process_fork" => value(fields, "child_pid=")?.parse().ok().map(What::Fork),
        "sched_process_exec" => Some(What::Exec(value(fields, "filename=")?.to_owned())),
        "sched_process_exit" => Some(What::End),
        "cgroup_mkdir" | "cgroup_rmdir" | "cgroup_attach_task" => Some(What::Note(format!("{event} {fields}"))),
        _ => None,
    }
}

/// Before and after ` [cpu] `; a task's name may hold brackets too, three digits in them it has hardly.
fn split_at_cpu(line: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    while let Some(at) = line[from..].find(" [").map(|at| at + from) {
        let rest = line.get(at + 2..)?;
        let is_cpu = rest.len() > 5 && rest.as_bytes()[..3].iter().all(u8::is_ascii_digit);
        if is_cpu && rest[3..].starts_with("] ") {
            return Some((&line[..at], &rest[5..]));
        }
        from = at + 2;
    }
    None
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(key)?;
    Some(after.split(' ').next().unwrap_or(after))
}

fn micros(seconds: &str) -> Option<Micros> {
    let (whole, part) = seconds.split_once('.')?;
    Some(whole.parse::<u64>().ok()? * 1_000_000 + part.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# tracer: nop
      a [1] b-12237   [000] ..... 12004.036427: sys_openat(dfd: ffffff9c, filename: 7ff0, flags: 0)
      a [1] b-12237   [000] d..2. 12004.036430: sched_switch: prev_comm=a prev_pid=12237 prev_prio=120 prev_state=D ==> next_comm=x y next_pid=7 next_prio=120
      a [1] b-12237   [000] d..2. 12004.036431: <stack trace>
 => __schedule
 => synchronize_rcu
       x y-7       [001] d..2. 12004.036499: sched_waking: comm=a [1] b pid=12237 prio=120 target_cpu=000
       x y-7       [001] ..... 12004.036500: sched_process_fork: comm=x y pid=7 child_comm=x y child_pid=8
       x y-7       [001] ..... 12004.036501: sched_process_exec: filename=/bin/true pid=7 old_pid=7
   a [1] b-12237   [000] ..... 12005.000001: sys_openat -> 0x9
   a [1] b-12237   [000] .....  9005.000001: sys_close -> 0x0
";

    #[test]
    fn each_kind_of_record() {
        let events = events(TEXT);
        let whats: Vec<(u32, &What)> = events.iter().map(|event| (event.task, &event.what)).collect();
        let frames = vec!["__schedule".to_owned(), "synchronize_rcu".to_owned()];
        assert_eq!(
            whats,
            [
                (
                    12237,
                    &What::Enter("openat".into(), "dfd: ffffff9c, filename: 7ff0, flags: 0".into())
                ),
                (12237, &What::Out { asleep: true }),
                (7, &What::In),
                (12237, &What::Stack(frames)),
                (12237, &What::Woken),
                (7, &What::Fork(8)),
                (7, &What::Exec("/bin/true".into())),
                (12237, &What::Leave("openat".into(), "0x9".into())),
                (12237, &What::Leave("close".into(), "0x0".into())),
            ]
        );
        assert_eq!(events[0].at, 12_004_036_427);
        assert_eq!((events[0].comm.as_str(), events[2].comm.as_str()), ("a [1] b", "x y"));
    }
}
