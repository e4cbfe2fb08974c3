//! Overlayfs, the propagation of `/`, room on the disk.

use std::path::{Path, PathBuf};

use config::Config;
use rustix::fs::statvfs;

use super::{Finding, text};

/// Less free than this and the kubelet evicts, or pulls fail half way.
const LOW_BYTES: u64 = 2 << 30;
/// The same for inodes: an image has tens of thousands of files.
const LOW_INODES: u64 = 100_000;

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let kinds = text("/proc/filesystems").unwrap_or_default();
    let table = text("/proc/self/mountinfo").unwrap_or_default();
    vec![
        overlay(&kinds),
        propagation(&table),
        space("disk space", &config.root),
        space("state space", &config.state),
    ]
}

fn overlay(kinds: &str) -> Finding {
    const NAME: &str = "overlayfs";
    if kinds
        .lines()
        .any(|line| line.split_whitespace().last() == Some("overlay"))
    {
        return Finding::ok(NAME, "in the kernel");
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = text(format!("/lib/modules/{release}/modules.dep")).unwrap_or_default();
    if modules
        .lines()
        .any(|line| line.split(':').next().is_some_and(|path| path.contains("/overlay.ko")))
    {
        return Finding::warn(
            NAME,
            "a module that is not loaded",
            "the first container loads it; or: modprobe overlay",
        );
    }
    Finding::missing(NAME, "not in this kernel", "containers have no root filesystem")
}

fn propagation(table: &str) -> Finding {
    const NAME: &str = "propagation of /";
    // The last mount at / is the one that is seen.
    let root = table.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
    let tags = root
        .and_then(|line| line.split_once(" - "))
        .map_or("", |(left, _)| left);
    if tags.contains(" shared:") {
        Finding::ok(NAME, "shared")
    } else {
        Finding::warn(
            NAME,
            "private",
            "mounts with propagation HostToContainer or Bidirectional are refused, which storage drivers need: mount --make-rshared /",
        )
    }
}

fn space(name: &'static str, dir: &Path) -> Finding {
    let mut at = PathBuf::from(dir);
    let stat = loop {
        match statvfs(&at) {
            Ok(stat) => break stat,
            Err(rustix::io::Errno::NOENT) if at.pop() => {}
            Err(error) => return Finding::warn(name, format!("{}: {error}", at.display()), "could not be looked at"),
        }
    };
    let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!(
        "{} MiB and {} inodes free for {}",
        bytes >> 20,
        stat.f_favail,
        dir.display()
    );
    // Filesystems without a fixed number of inodes (btrfs) say 0 of 0.
    let is_low = bytes < LOW_BYTES || (stat.f_files > 0 && stat.f_favail < LOW_INODES);
    let is_state = name.starts_with("state");
    if is_low && !is_state {
        Finding::warn(
            name,
            found,
            "images fill it soon: a pull that finds no room fails, and the kubelet evicts pods",
        )
    } else if is_state && bytes < (16 << 20) {
        Finding::warn(
            name,
            found,
            "exit records may not find room: the kubelet would read them as Unknown, 255",
        )
    } else {
        Finding::ok(name, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn overlay_is_found_by_its_name_alone() {
        assert_eq!(overlay("nodev\tsysfs\nnodev\toverlay\n\text4\n").level, Level::Ok);
        assert_ne!(overlay("nodev\toverlayish\n").level, Level::Ok);
    }

    #[test]
    fn the_mount_on_top_counts() {
        let private = "1 0 0:1 / / rw - ext4 /dev/vda rw\n";
        let shared = "2 1 0:1 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n";
        assert_eq!(propagation(private).level, Level::Warn);
        assert_eq!(propagation(&format!("{private}{shared}")).level, Level::Ok);
        assert_eq!(propagation(&format!("{shared}{private}")).level, Level::Warn);
        // A source that merely contains the word is no tag.
        assert_eq!(
            propagation("1 0 0:1 / / rw - ext4 /dev/x shared:1\n").level,
            Level::Warn
        );
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_measured_above() {
        let finding = space("disk space", Path::new("/nonexistent/below"));
        assert!(finding.found.ends_with("free for /nonexistent/below"), "{finding:?}");
    }
}
