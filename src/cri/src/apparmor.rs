//! The default AppArmor profile: its text, and loading it when the daemon starts, by `apparmor_parser`, as the peers do.
//! The kernel's own interface takes compiled policy only, and the compiler is that program.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::error::Error;

/// The name of the default profile.
pub(crate) const DEFAULT: &str = "bulkhead-default";

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
const PARSER: &str = "apparmor_parser";

/// Whether the kernel has it switched on.
pub(crate) fn is_on() -> bool {
    std::fs::read_to_string(ENABLED).is_ok_and(|on| on.starts_with('Y'))
}

/// Whether a profile is in the kernel's list: lines of `name (mode)`; a name may hold blanks and brackets.
fn is_listed(list: &str, name: &str) -> bool {
    list.lines()
        .any(|line| line.rsplit_once(" (").is_some_and(|(known, _)| known == name))
}

/// Whether the profile `name` is loaded.
pub(crate) fn is_loaded(name: &str) -> Result<bool, Error> {
    let list = std::fs::read_to_string(PROFILES).map_err(|e| Error::at("read", PROFILES, &e))?;
    Ok(is_listed(&list, name))
}

/// Puts the default profile into the kernel, in the place of an older text; its name comes back. Blocking.
pub(crate) fn load() -> Result<String, Error> {
    let at = |op: &str, e: &std::io::Error| Error::at(op, PARSER, e);
    let mut parser = Command::new(PARSER)
        // No cache: the text is ours, not a file of /etc/apparmor.d.
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| at("run", &e))?;
    if let Some(mut stdin) = parser.stdin.take() {
        stdin.write_all(profile().as_bytes()).map_err(|e| at("write to", &e))?;
    }
    let done = parser.wait_with_output().map_err(|e| at("wait for", &e))?;
    if done.status.success() {
        return Ok(DEFAULT.to_owned());
    }
    let words = String::from_utf8_lossy(&done.stderr);
    let words: String = words.trim().chars().take(400).collect();
    Err(Error::new(
        spec::Kind::FailedPrecondition,
        format!("{PARSER} refuses the default profile ({}): {words}", done.status),
    ))
}

/// All that a container needs, and none of the files by which the kernel of all is changed: they are the second lock
/// behind masked and read-only paths, for the day that one of those is forgotten or undone.
fn profile() -> String {
    let files = [
        "deny mount,",
        "deny /proc/sysrq-trigger wklx,",
        "deny /proc/kcore rwklx,",
        "deny /proc/mem rwklx,",
        "deny /proc/acpi/** rwklx,",
        "deny /proc/bus/** wklx,",
        "deny /proc/irq/** wklx,",
        "deny /proc/scsi/** wklx,",
        "deny /proc/sys/{abi,debug,dev,vm}/** wklx,",
        "deny /proc/sys/fs/[^m]** wklx,",
        "deny /proc/sys/kernel/[^dhms]** wklx,",
        "deny /proc/sys/kernel/mo** wklx,",
        "deny /proc/sys/kernel/sy** wklx,",
        "deny /sys/[^f]** wklx,",
        "deny /sys/f[^s]** wklx,",
        "deny /sys/fs/[^c]** wklx,",
        "deny /sys/firmware/** rwklx,",
        "deny /sys/kernel/security/** rwklx,",
        "deny /sys/kernel/debug/** rwklx,",
    ];
    let rules = [
        "network,".to_owned(),
        "capability,".to_owned(),
        "file,".to_owned(),
        "umount,".to_owned(),
        // The monitor signals it, and it its own.
        "signal (receive) peer=unconfined,".to_owned(),
        format!("signal (send, receive) peer={DEFAULT},"),
        format!("ptrace (trace, read, tracedby, readby) peer={DEFAULT},"),
    ];
    let mut text = format!("profile {DEFAULT} flags=(attach_disconnected, mediate_deleted) {{\n");
    for rule in rules.iter().map(String::as_str).chain(files) {
        text.push_str(&format!("  {rule}\n"));
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_whole() {
        let list = "bulkhead-default (enforce)\nodd name (x) (complain)\n/usr/bin/man (enforce)\n";
        assert!(is_listed(list, "bulkhead-default") && is_listed(list, "odd name (x)"));
        assert!(!is_listed(list, "bulkhead") && !is_listed(list, "odd name") && !is_listed(list, ""));
    }

    #[test]
    fn the_text_is_one_profile() {
        let text = profile();
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert!(text.starts_with("profile bulkhead-default ") && text.ends_with("}\n"));
        assert!(
            text.lines()
                .skip(1)
                .filter(|line| *line != "}")
                .all(|line| line.ends_with(','))
        );
    }
}
