//! Capabilities of this process, seccomp, user namespaces, security modules.

use std::path::Path;

use super::{Finding, text};

/// Capabilities without which containers cannot be made, by number (linux/capability.h).
const NEEDED: [(u32, &str); 11] = [
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (3, "FOWNER"),
    (5, "KILL"),
    (6, "SETGID"),
    (7, "SETUID"),
    (8, "SETPCAP"),
    (12, "NET_ADMIN"),
    (18, "SYS_CHROOT"),
    (21, "SYS_ADMIN"),
    (27, "MKNOD"),
];
const SYS_RESOURCE: u32 = 24;

pub(super) fn findings() -> Vec<Finding> {
    let status = text("/proc/self/status").unwrap_or_default();
    let mut findings = capabilities(&status);
    findings.push(seccomp(
        &text("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default(),
    ));
    findings.push(user_namespaces(text("/proc/sys/user/max_user_namespaces").as_deref()));
    findings.push(security_module());
    findings
}

/// Judges the bounding set: what a daemon started as root from here would hold.
fn capabilities(status: &str) -> Vec<Finding> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
    };
    let Some(set) = field("CapBnd:") else {
        return vec![Finding::warn(
            "capabilities",
            "cannot be told",
            "/proc/self/status is not readable",
        )];
    };
    let has = |number: u32| set & (1 << number) != 0;
    let absent: Vec<&str> = NEEDED
        .iter()
        .filter(|(number, _)| !has(*number))
        .map(|(_, name)| *name)
        .collect();
    let needed = if absent.is_empty() {
        Finding::ok("capabilities", "all that containers need")
    } else {
        Finding::missing(
            "capabilities",
            format!("not to be had: {}", absent.join(" ")),
            "containers cannot be made",
        )
    };
    let resource = if has(SYS_RESOURCE) {
        Finding::ok("CAP_SYS_RESOURCE", "held")
    } else {
        let consequence =
            "a lower oom_score_adj than the daemon's own is clamped, with a log line; limits cannot be raised";
        Finding::warn("CAP_SYS_RESOURCE", "not to be had", consequence)
    };
    vec![needed, resource]
}

fn seccomp(actions: &str) -> Finding {
    const NAME: &str = "seccomp";
    let actions: Vec<&str> = actions.split_whitespace().collect();
    if !actions.contains(&"errno") {
        return Finding::missing(
            NAME,
            "not in this kernel",
            "containers would run without a filter; those that ask for one fail",
        );
    }
    if actions.contains(&"user_notif") {
        Finding::ok(NAME, "filters and notification")
    } else {
        Finding::warn(
            NAME,
            "filters",
            "no notification (5.0): profiles with SCMP_ACT_NOTIFY are refused",
        )
    }
}

fn user_namespaces(most: Option<&str>) -> Finding {
    const NAME: &str = "user namespaces";
    let consequence = "pods with hostUsers: false are refused";
    match most.and_then(|most| most.trim().parse::<u64>().ok()) {
        None => Finding::warn(NAME, "not in this kernel", consequence),
        Some(0) => Finding::warn(NAME, "switched off (user.max_user_namespaces = 0)", consequence),
        Some(most) => Finding::ok(NAME, format!("up to {most}")),
    }
}

fn security_module() -> Finding {
    const NAME: &str = "AppArmor or SELinux";
    if text("/sys/module/apparmor/parameters/enabled").is_some_and(|on| on.trim() == "Y") {
        return Finding::ok(NAME, "AppArmor");
    }
    match text("/sys/fs/selinux/enforce").as_deref().map(str::trim) {
        Some("1") => return Finding::ok(NAME, "SELinux, enforcing"),
        Some(_) => return Finding::warn(NAME, "SELinux, permissive", "its rules are logged, not enforced"),
        None => {}
    }
    let consequence = "one wall less around containers; pods that ask for a profile are refused";
    let found = if Path::new("/sys/kernel/security").exists() {
        "neither is on"
    } else {
        "neither is in this kernel"
    };
    Finding::warn(NAME, found, consequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn capabilities_are_read_from_the_bounding_set() {
        let levels = |set: &str| {
            let findings = capabilities(&format!("Name:\tx\nCapEff:\t0\nCapBnd:\t{set}\n"));
            (findings[0].level, findings[1].level)
        };
        assert_eq!(levels("000001ffffffffff"), (Level::Ok, Level::Ok));
        assert_eq!(levels("000001fffeffffff"), (Level::Ok, Level::Warn));
        assert_eq!(levels("00000000a80425fb"), (Level::Missing, Level::Warn));
    }

    #[test]
    fn seccomp_and_user_namespaces() {
        assert_eq!(seccomp("kill_process errno user_notif allow").level, Level::Ok);
        assert_eq!(seccomp("kill errno allow").level, Level::Warn);
        assert_eq!(seccomp("").level, Level::Missing);
        assert_eq!(user_namespaces(Some("96365\n")).level, Level::Ok);
        assert_eq!(user_namespaces(Some("0\n")).level, Level::Warn);
        assert_eq!(user_namespaces(None).level, Level::Warn);
    }
}
