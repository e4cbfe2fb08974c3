//! What the processes of a container hold: descriptors, sockets, limits. From `/proc`, for metrics only.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

/// Descriptors looked at in one container. What has more is counted as having this many: a metric must not be a way to
/// keep the daemon busy.
const MOST: u64 = 100_000;

/// What processes hold together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) descriptors: u64,
    pub(super) sockets: u64,
}

/// What these processes hold; those that have ended hold nothing.
pub(super) fn held(pids: &[i32]) -> Held {
    let mut held = Held::default();
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            if held.descriptors == MOST {
                return held;
            }
            held.descriptors += 1;
            // Closed meanwhile: it was no socket that anybody could count.
            let target = fs::read_link(entry.path()).unwrap_or_default();
            if target.as_os_str().as_bytes().starts_with(b"socket:") {
                held.sockets += 1;
            }
        }
    }
    held
}

/// The soft limit of open files of a process; none for one that has ended or has no limit.
pub(super) fn open_files(pid: i32) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

fn parse(limits: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_what_it_opens() {
        let own = [i32::try_from(std::process::id()).unwrap()];
        let before = held(&own);
        let sockets: Vec<_> = (0..50)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let after = held(&own);
        // Other tests of this process open and close some meanwhile.
        assert!(
            after.sockets >= before.sockets + 30 && after.descriptors >= after.sockets,
            "{before:?} {after:?}"
        );
        drop(sockets);
        assert!(open_files(own[0]).is_some_and(|limit| limit > 0));
        assert_eq!(held(&[i32::MAX]), Held::default());
    }

    #[test]
    fn limits_are_read_from_their_table() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max open files            1024                 4096                 files     \n";
        assert_eq!(parse(text), Some(1024));
        assert_eq!(
            parse("Max open files            unlimited            unlimited            files\n"),
            None
        );
        assert_eq!(parse(""), None);
    }
}
