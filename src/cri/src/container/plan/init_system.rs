//! A container whose program is an init system: systemd, or whatever is called `/sbin/init`. It gets what systemd asks
//! of a container manager (systemd.io/CONTAINER_INTERFACE) and what CRI-O gives it: a tmpfs on `/run`, `/run/lock` and
//! `/tmp`, `container=` in its environment, SIGRTMIN+3 as the signal that stops it, and its own cgroup to divide where
//! that is safe: on cgroup v2 with `nsdelegate`, which keeps the limits of a cgroup namespace's root from those inside.
//! On v1 whoever may divide a cgroup may lift its limits, so there the cgroup stays read only.

use std::path::Path;

use spec::runtime::Mount;

use super::mounts::mount;
use crate::error::Error;

/// The signal that stops a program for which nobody names one: SIGTERM, at which systemd would execute itself again;
/// SIGRTMIN+3 is its halt.
pub(super) fn stop_signal(is_one: bool) -> i32 {
    if is_one { 37 } else { 15 }
}

/// What its environment says of who runs it.
pub(crate) const ENVIRONMENT: (&str, &str) = ("container", "oci");

/// Names of an init system, as CRI-O knows them.
const PROGRAMS: [&str; 3] = ["/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init"];

/// Whether the container's program is one.
pub(crate) fn is_one(args: &[String]) -> bool {
    let Some(program) = args.first() else { return false };
    PROGRAMS.contains(&program.as_str()) || Path::new(program).file_name().is_some_and(|name| name == "systemd")
}

/// Its own directories, empty at each start.
pub(super) fn mounts() -> Result<[Mount; 3], Error> {
    let tmpfs = |target: &str, options: &[&str]| mount(Path::new(target), "tmpfs", Path::new("tmpfs"), options);
    Ok([
        tmpfs("/run", &["nosuid", "nodev", "mode=755", "size=65536k"])?,
        tmpfs("/run/lock", &["nosuid", "nodev", "noexec", "mode=1777", "size=5120k"])?,
        tmpfs("/tmp", &["nosuid", "nodev", "mode=1777"])?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_system_is_known_by_its_path() {
        for (program, wanted) in [
            ("/sbin/init", true),
            ("/usr/sbin/init", true),
            ("/lib/systemd/systemd", true),
            ("systemd", true),
            ("init", false),
            ("/opt/sbin/init", false),
            ("/usr/bin/systemd-run", false),
            ("sh", false),
        ] {
            assert_eq!(
                is_one(&[program.to_owned(), "/sbin/init".to_owned()]),
                wanted,
                "{program}"
            );
        }
        assert!(!is_one(&[]));
    }
}
