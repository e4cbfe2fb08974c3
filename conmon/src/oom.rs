//! Whose deaths the OOM killer's counter tells of: the first process', or a child's.
//!
//! The counter of a cgroup has no names. But a kill that the first process has outlived was a
//! child's, and stays one: such kills are put aside, so that a later SIGKILL from anybody is
//! not taken for the OOM killer's (kubernetes PR #140718). The kernel counts just before it
//! sends the signal (`__oom_kill_process`), and v1 notifies before either; so a kill is put
//! aside only when it was counted a while ago and the first process still has no SIGKILL
//! pending and is not exiting, or when we are about to kill it ourselves.

use std::time::{Duration, Instant};

/// Between counting a kill and asking whether the first process has outlived it.
const WHILE: Duration = Duration::from_millis(50);

/// SIGKILL in the masks of /proc/PID/status.
const KILL_BIT: u64 = 1 << 8;
/// `PF_EXITING`, include/linux/sched.h; field 9 of /proc/PID/stat.
const EXITING: u64 = 0x4;

/// What is known of the counter.
#[derive(Debug, Default)]
pub(crate) struct Oom {
    /// The counter as it was last read.
    seen: u64,
    /// So many kills the first process has outlived.
    of_children: u64,
    /// When to look again.
    pub(crate) look_at: Option<Instant>,
}

impl Oom {
    /// The kernel says that memory ran out. True where there is a kill that was not known.
    pub(crate) fn notified(&mut self, kills: u64, now: Instant) -> bool {
        self.look_at = Some(now + WHILE);
        let is_new = kills > self.seen;
        self.seen = self.seen.max(kills);
        is_new
    }

    /// The time to look again has come. True where there is a kill that was not known.
    pub(crate) fn look(&mut self, kills: u64, is_well: bool, now: Instant) -> bool {
        self.look_at = None;
        if is_well {
            self.of_children = self.seen;
        }
        let is_new = kills > self.seen;
        self.seen = self.seen.max(kills);
        if is_well && self.seen > self.of_children {
            self.look_at = Some(now + WHILE);
        }
        is_new
    }

    /// Just before we send SIGKILL to the first process.
    pub(crate) fn killing(&mut self, kills: u64, is_well: bool) {
        if is_well {
            self.of_children = kills;
        }
    }

    /// Of `kills`, those that may have been the first process'.
    pub(crate) fn unexplained(&self, kills: u64) -> u64 {
        kills.saturating_sub(self.of_children)
    }
}

/// Whether a process lives and nobody has killed it yet.
pub(crate) fn is_well(pid: i32) -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    match (read("status"), read("stat")) {
        (Ok(status), Ok(stat)) => !is_killed(&status) && !is_exiting(&stat),
        // It is gone.
        _ => false,
    }
}

fn is_killed(status: &str) -> bool {
    status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")))
        .any(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & KILL_BIT != 0))
}

fn is_exiting(stat: &str) -> bool {
    // The name, in parentheses, may hold anything.
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return true;
    };
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().unwrap_or("X");
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok());
    matches!(state, "Z" | "X" | "x") || flags.is_none_or(|flags| flags & EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_that_was_outlived_is_put_aside() {
        let (mut oom, now) = (Oom::default(), Instant::now());
        // v1: told before the kill is counted.
        assert!(!oom.notified(0, now));
        assert!(oom.look(1, true, now));
        assert_eq!(oom.unexplained(1), 1, "counted this instant");
        assert!(oom.look_at.is_some());
        assert!(!oom.look(1, true, now));
        assert_eq!((oom.unexplained(1), oom.unexplained(2)), (0, 1));
        assert!(oom.look_at.is_none());
    }

    #[test]
    fn a_process_that_is_dying_has_outlived_nothing() {
        let (mut oom, now) = (Oom::default(), Instant::now());
        assert!(oom.notified(1, now));
        oom.look(1, false, now);
        oom.look(1, false, now);
        oom.killing(1, false);
        assert_eq!(oom.unexplained(1), 1);
        assert!(oom.look_at.is_none());
    }

    #[test]
    fn what_was_counted_before_our_own_kill_is_not_its_cause() {
        let mut oom = Oom::default();
        oom.killing(3, true);
        assert_eq!((oom.unexplained(3), oom.unexplained(4)), (0, 1));
    }

    #[test]
    fn a_pending_kill_and_an_exit_are_seen() {
        assert!(is_killed(
            "State:\tS\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"
        ));
        assert!(!is_killed("SigPnd:\t0000000000004000\nShdPnd:\t0000000000000000\n"));
        assert!(!is_exiting("7 (a) b) S 1 7 7 0 -1 4194560 1"));
        assert!(is_exiting("7 (sh) S 1 7 7 0 -1 4194564 1"));
        assert!(is_exiting("7 (sh) Z 1 7 7 0 -1 4194560 1"));
        assert!(is_well(i32::try_from(std::process::id()).unwrap()));
        assert!(!is_well(i32::MAX));
    }
}
