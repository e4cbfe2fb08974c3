//! The kernel's version, the programs that belong to the daemon, the clock.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use config::Config;

use super::{Finding, text};

/// First kernel with all that isolation cannot do without: `mount_setattr` (5.12) and
/// `cgroup.kill` (5.14).
const OLDEST: (u32, u32) = (5, 14);
/// First kernel whose overlayfs takes idmapped lower layers.
const IDMAPPED_OVERLAY: (u32, u32) = (5, 19);
/// 2026-01-01, before which this program did not exist.
const BEFORE_US: u64 = 1_767_225_600;

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    vec![version(&release), monitor(config), clock(SystemTime::now())]
}

fn version(release: &str) -> Finding {
    const NAME: &str = "kernel";
    match parse(release) {
        None => Finding::warn(
            NAME,
            release,
            "its version cannot be told; 5.14 is the oldest that works",
        ),
        Some(version) if version < OLDEST => Finding::missing(
            NAME,
            release,
            "5.14 is the oldest that works (mount_setattr, cgroup.kill)",
        ),
        Some(version) if version < IDMAPPED_OVERLAY => Finding::warn(
            NAME,
            release,
            "user namespaces for pods need 5.19 (idmapped overlay layers)",
        ),
        Some(_) => Finding::ok(NAME, release),
    }
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn monitor(config: &Config) -> Finding {
    const NAME: &str = "monitor program";
    let beside = || {
        std::env::current_exe()
            .ok()
            .map(|program| program.with_file_name("bulkhead-conmon"))
    };
    match config.monitor_path.clone().or_else(beside) {
        Some(path) if path.is_file() => Finding::ok(NAME, path.display().to_string()),
        Some(path) => Finding::missing(
            NAME,
            format!("{} is not there", path.display()),
            "no container can be made: put bulkhead-conmon beside bulkhead, or set monitor_path",
        ),
        None => Finding::missing(NAME, "the path of this program cannot be told", "set monitor_path"),
    }
}

fn clock(now: SystemTime) -> Finding {
    const NAME: &str = "clock";
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let source = text("/sys/devices/system/clocksource/clocksource0/current_clocksource").unwrap_or_default();
    if seconds < BEFORE_US {
        return Finding::missing(
            NAME,
            format!("{seconds} s after 1970"),
            "the clock is wrong: certificates of registries look not yet valid, and the kubelet orders containers by time",
        );
    }
    let synchronized = Path::new("/run/systemd/timesync/synchronized").exists();
    Finding::ok(
        NAME,
        format!("{}{}", source.trim(), if synchronized { ", synchronized" } else { "" }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;
    use std::time::Duration;

    #[test]
    fn releases_of_distributions_are_understood() {
        assert_eq!(parse("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(parse("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(parse("6.18"), Some((6, 18)));
        assert_eq!(parse("next"), None);
    }

    #[test]
    fn an_old_kernel_is_missing_something() {
        assert_eq!(version("4.18.0").level, Level::Missing);
        assert_eq!(version("5.15.0-91-generic").level, Level::Warn);
        assert_eq!(version("6.18.2").level, Level::Ok);
    }

    #[test]
    fn a_monitor_program_that_is_not_there_is_missing() {
        let mut config = Config {
            monitor_path: Some("/nonexistent/conmon".into()),
            ..Config::default()
        };
        assert_eq!(monitor(&config).level, Level::Missing);
        config.monitor_path = std::env::current_exe().ok();
        assert_eq!(monitor(&config).level, Level::Ok);
    }

    #[test]
    fn a_clock_that_was_never_set_is_seen() {
        assert_eq!(clock(UNIX_EPOCH + Duration::from_secs(100)).level, Level::Missing);
        assert_eq!(clock(SystemTime::now()).level, Level::Ok);
    }
}
