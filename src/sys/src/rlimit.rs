//! Resource limits of this process.

use std::io;

use rustix::process::{Resource, Rlimit};

/// A soft and a hard limit; `None` is infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced.
    pub soft: Option<u64>,
    /// What the soft limit may be raised to.
    pub hard: Option<u64>,
}

/// The resource with the POSIX name `name`, as `RLIMIT_NOFILE`.
#[must_use]
pub fn named(name: &str) -> Option<Resource> {
    Some(match name.strip_prefix("RLIMIT_")? {
        "AS" => Resource::As,
        "CORE" => Resource::Core,
        "CPU" => Resource::Cpu,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "LOCKS" => Resource::Locks,
        "MEMLOCK" => Resource::Memlock,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "NOFILE" => Resource::Nofile,
        "NPROC" => Resource::Nproc,
        "RSS" => Resource::Rss,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return None,
    })
}

/// The limits of this process.
#[must_use]
pub fn get(resource: Resource) -> Limit {
    let limit = rustix::process::getrlimit(resource);
    Limit {
        soft: limit.current,
        hard: limit.maximum,
    }
}

/// Sets the limits of this process.
///
/// # Errors
/// EPERM for a hard limit above the present one without `CAP_SYS_RESOURCE`; EINVAL for soft above hard.
pub fn set(resource: Resource, limit: Limit) -> io::Result<()> {
    Ok(rustix::process::setrlimit(
        resource,
        Rlimit {
            current: limit.soft,
            maximum: limit.hard,
        },
    )?)
}

/// Sets the limits of another process of ours.
///
/// # Errors
/// As [`set`]; ESRCH where it is gone.
pub fn give(pid: i32, resource: Resource, limit: Limit) -> io::Result<()> {
    let limit = Rlimit {
        current: limit.soft,
        maximum: limit.hard,
    };
    rustix::process::prlimit(rustix::process::Pid::from_raw(pid), resource, limit)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_given_to_a_child() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let limit = Limit {
            soft: Some(21),
            hard: Some(23),
        };
        give(pid, named("RLIMIT_NOFILE").unwrap(), limit).unwrap();
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(
            line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(),
            ["21", "23"]
        );
    }

    #[test]
    fn a_limit_holds_in_the_child() {
        assert!(named("RLIMIT_NONSENSE").is_none());
        let child = crate::process::fork(|| {
            let wanted = Limit {
                soft: Some(17),
                hard: Some(19),
            };
            let done = named("RLIMIT_NOFILE").is_some_and(|r| set(r, wanted).is_ok() && get(r) == wanted);
            u8::from(!done)
        })
        .unwrap();
        assert_eq!(crate::process::wait(child).unwrap(), crate::process::Exit::Code(0));
    }
}
