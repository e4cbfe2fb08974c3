//! Whether a signal would be lost on a container's first process.
//!
//! The kernel protects the first process of a pid namespace: a signal for which it has no
//! handler is dropped, even from outside (signal(7), `SIGNAL_UNKILLABLE`); only SIGKILL and
//! SIGSTOP get through. A program that is stopped in its first milliseconds has not installed
//! its handler yet, never hears of the stop, and is killed when the whole grace has passed.
//! So whoever sends a stop signal looks here first, and sends it when it can be heard: once,
//! for many programs take a second one as "at once" (Kubernetes' own do).

/// What a signal meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ear {
    /// A handler, a default action that happens, or nobody any more.
    Open,
    /// Nothing: it is dropped.
    Deaf,
    /// It is blocked and not pending: sigwaitinfo(2) takes such a one, or it was not sent yet.
    Blocked,
    /// It is blocked and pending. A shell blocks all signals around a fork, and what is pending is dropped after it.
    Pending,
}

/// As often as a process is seen with the signal blocked, it is taken for one that waits for it.
const PATIENCE: u32 = 3;

/// When a stop signal is to be sent.
#[derive(Debug, Default)]
pub(crate) struct Teller {
    blocked: u32,
    sent: bool,
    heard: bool,
}

impl Teller {
    /// Whether the signal is to be sent to a process that was just seen so.
    pub(crate) fn look(&mut self, ear: Ear) -> bool {
        match ear {
            Ear::Open => {
                self.heard = true;
                !std::mem::replace(&mut self.sent, true)
            }
            // What waited while it was blocked has been dropped.
            Ear::Deaf => {
                (self.blocked, self.sent) = (0, false);
                false
            }
            // A shell that forks unblocks it in a moment, and would drop it.
            Ear::Blocked => {
                self.blocked += 1;
                self.blocked >= PATIENCE && !std::mem::replace(&mut self.sent, true)
            }
            Ear::Pending => false,
        }
    }

    /// Whether there is no more to look for.
    pub(crate) fn heard(&self) -> bool {
        self.heard
    }
}

/// What `signal` meets at `pid` now.
pub(crate) fn ear(pid: i32, signal: i32) -> Ear {
    // A process that is gone needs no signal.
    std::fs::read_to_string(format!("/proc/{pid}/status")).map_or(Ear::Open, |status| read(&status, signal))
}

fn read(status: &str, signal: i32) -> Ear {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
    };
    let mut pids = field("NSpid").split_whitespace();
    let first = pids.clone().count() > 1 && pids.next_back() == Some("1");
    let has = |name: &str| {
        let set = u64::from_str_radix(field(name).trim(), 16).unwrap_or(0);
        let bit = u32::try_from(signal - 1).unwrap_or(0);
        set.checked_shr(bit).is_some_and(|rest| rest & 1 == 1)
    };
    if !first || signal == 9 || has("SigCgt") {
        Ear::Open
    } else if !has("SigBlk") {
        Ear::Deaf
    } else if has("ShdPnd") || has("SigPnd") {
        Ear::Pending
    } else {
        Ear::Blocked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pids: &str, blocked: u64, caught: u64, pending: u64) -> String {
        format!(
            "Name:\tx\nNSpid:\t{pids}\nSigPnd:\t{:016x}\nShdPnd:\t{pending:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t0000000000001000\nSigCgt:\t{caught:016x}\n",
            0
        )
    }

    #[test]
    fn a_signal_is_sent_once_and_when_it_is_heard() {
        let sent = |ears: &[Ear]| {
            let mut teller = Teller::default();
            ears.iter().map(|&ear| u8::from(teller.look(ear))).collect::<Vec<_>>()
        };
        use Ear::{Blocked, Deaf, Open, Pending};
        assert_eq!(sent(&[Open, Open]), [1, 0]);
        assert_eq!(sent(&[Deaf, Deaf, Open, Open]), [0, 0, 1, 0]);
        // A shell that forks before it has its handler.
        assert_eq!(sent(&[Blocked, Deaf, Blocked, Open]), [0, 0, 0, 1]);
        // One that takes it by sigwaitinfo(2).
        assert_eq!(sent(&[Blocked, Blocked, Blocked, Blocked]), [0, 0, 1, 0]);
        assert_eq!(sent(&[Blocked, Blocked, Blocked, Pending, Blocked]), [0, 0, 1, 0, 0]);
        // It was dropped all the same.
        assert_eq!(
            sent(&[Blocked, Blocked, Blocked, Pending, Deaf, Open]),
            [0, 0, 1, 0, 0, 1]
        );
        assert_eq!(sent(&[Blocked, Blocked, Blocked, Pending, Open]), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn only_the_first_process_without_a_handler_is_deaf() {
        let term = 1 << 14;
        assert_eq!(read(&status("812\t1", 0, 0, 0), 15), Ear::Deaf);
        assert_eq!(read(&status("812\t40\t1", 0, !term, 0), 15), Ear::Deaf);
        assert_eq!(read(&status("812\t1", 0, term, 0), 15), Ear::Open);
        assert_eq!(read(&status("812\t1", term, 0, 0), 15), Ear::Blocked);
        assert_eq!(read(&status("812\t1", term, 0, term), 15), Ear::Pending);
        assert_eq!(read(&status("812\t7", 0, 0, 0), 15), Ear::Open);
        // The host's own: what the default action is happens.
        assert_eq!(read(&status("1", 0, 0, 0), 15), Ear::Open);
        assert_eq!(read(&status("812\t1", 0, 0, 0), 9), Ear::Open);
        assert_eq!(read(&status("812\t1", 0, 0, 0), 64), Ear::Deaf);
        assert_eq!(read("", 15), Ear::Open);
        assert_eq!(ear(i32::try_from(std::process::id()).unwrap(), 15), Ear::Open);
    }
}
