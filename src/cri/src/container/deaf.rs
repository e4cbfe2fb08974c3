//! Whether a signal would be lost on a container's first process.
//!
//! The kernel protects the first process of a pid namespace: a signal for which it has no
//! handler is dropped, even from outside (signal(7), `SIGNAL_UNKILLABLE`); only SIGKILL and
//! SIGSTOP get through. A program that is stopped in its first milliseconds has not installed
//! its handler yet, never hears of the stop, and is killed when the whole grace has passed.
//! So whoever sends a stop signal looks here first, and sends it again once it can be heard.

/// The signal that was sent to `pid` before this look and after it is lost, or would be.
pub(crate) fn is_deaf(pid: i32, signal: i32) -> bool {
    // A process that is gone needs no signal.
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| drops(&status, signal))
}

/// First of a pid namespace of its own, neither catching the signal nor blocking it: what is
/// blocked stays pending, and sigwaitinfo(2) takes it.
fn drops(status: &str, signal: i32) -> bool {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
    };
    let mut pids = field("NSpid").split_whitespace();
    let first = pids.clone().count() > 1 && pids.next_back() == Some("1");
    let has = |name: &str| {
        let set = u64::from_str_radix(field(name).trim(), 16).unwrap_or(u64::MAX);
        let bit = u32::try_from(signal - 1).unwrap_or(0);
        set.checked_shr(bit).is_none_or(|rest| rest & 1 == 1)
    };
    first && signal != 9 && !has("SigCgt") && !has("SigBlk")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pids: &str, blocked: u64, caught: u64) -> String {
        format!(
            "Name:\tx\nNSpid:\t{pids}\nSigBlk:\t{blocked:016x}\nSigIgn:\t0000000000001000\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn only_the_first_process_without_a_handler_is_deaf() {
        let term = 1 << 14;
        assert!(drops(&status("812\t1", 0, 0), 15));
        assert!(drops(&status("812\t40\t1", 0, !term), 15));
        assert!(!drops(&status("812\t1", 0, term), 15));
        assert!(!drops(&status("812\t1", term, 0), 15));
        assert!(!drops(&status("812\t7", 0, 0), 15));
        // The host's own: what the default action is happens.
        assert!(!drops(&status("1", 0, 0), 15));
        assert!(!drops(&status("812\t1", 0, 0), 9));
        assert!(drops(&status("812\t1", 0, 0), 64));
        assert!(!drops("", 15));
        assert!(!is_deaf(i32::try_from(std::process::id()).unwrap(), 15));
    }
}
