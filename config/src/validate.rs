//! What a value may be, beyond its type. Pure; knows nothing of the host: what the host
//! lacks is `bulkhead check`'s business, and a missing directory may come later.

use std::path::{Component, Path};
use std::time::Duration;

use crate::value::{CAPABILITIES, CgroupDriver};
use crate::{BUILT_IN_HANDLER, Config, Handler};

/// A value that cannot be, by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted key.
    pub key: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Config {
    /// All that is wrong; empty for a configuration that can be used.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Found(Vec::new());
        self.check_paths(&mut found);
        self.check_top(&mut found);
        self.check_limits(&mut found);
        self.check_names(&mut found);
        found.0
    }

    fn check_paths(&self, found: &mut Found) {
        found.path("root", &self.root);
        found.path("state", &self.state);
        found.path("cni.conf_dir", &self.cni.conf_dir);
        found.path("image.hosts_dir", &self.image.hosts_dir);
        for dir in &self.cni.bin_dirs {
            found.path("cni.bin_dirs", dir);
        }
        let optional = [
            ("listen", &self.listen),
            ("monitor_path", &self.monitor_path),
            ("runtime.seccomp_profile", &self.runtime.seccomp_profile),
            (
                "runtime.privileged_seccomp_profile",
                &self.runtime.privileged_seccomp_profile,
            ),
            ("stream.tls_cert", &self.stream.tls_cert),
            ("stream.tls_key", &self.stream.tls_key),
            ("metrics.socket", &self.metrics.socket),
            ("metrics.tls_cert", &self.metrics.tls_cert),
            ("metrics.tls_key", &self.metrics.tls_key),
        ];
        for (key, path) in optional {
            if let Some(path) = path {
                found.path(key, path);
            }
        }
    }

    fn check_top(&self, found: &mut Found) {
        for (key, path) in [("root", &self.root), ("state", &self.state)] {
            if path.components().count() < 2 {
                found.add(key, "must be a directory of its own, not \"/\"");
            }
        }
        if self.root.starts_with(&self.state) || self.state.starts_with(&self.root) {
            found.add("state", format!("must lie apart from root ({})", self.root.display()));
        }
        let part = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        if !self.cgroup_root.split('/').all(part) {
            found.add(
                "cgroup_root",
                format!(
                    "{:?} is no cgroup name: letters, digits, '_', '-' and '.', with '/' between parts",
                    self.cgroup_root
                ),
            );
        }
        if self.cgroup_driver == CgroupDriver::Systemd
            && (self.cgroup_root.contains('/') || self.cgroup_root.split('-').any(str::is_empty))
        {
            found.add(
                "cgroup_root",
                format!(
                    "{:?} is no name of a systemd slice: no '/', and something before, between and after each '-'",
                    self.cgroup_root
                ),
            );
        }
        match (&self.stream.tls_cert, &self.stream.tls_key) {
            (Some(_), None) => found.add("stream.tls_cert", "needs stream.tls_key beside it"),
            (None, Some(_)) => found.add("stream.tls_key", "needs stream.tls_cert beside it"),
            // The URL is the only credential of a session, and what is typed in it may be a password.
            (None, None) if !self.stream.listen.ip().is_loopback() => found.add(
                "stream.listen",
                format!(
                    "{} can be reached from other machines: set stream.tls_cert and stream.tls_key, or listen on 127.0.0.1",
                    self.stream.listen
                ),
            ),
            _ => {}
        }
        match (&self.metrics.tls_cert, &self.metrics.tls_key) {
            (Some(_), None) => found.add("metrics.tls_cert", "needs metrics.tls_key beside it"),
            (None, Some(_)) => found.add("metrics.tls_key", "needs metrics.tls_cert beside it"),
            (Some(_), Some(_)) if self.metrics.listen.is_none() => {
                found.add("metrics.tls_cert", "is for metrics.listen, which is not set");
            }
            _ => {}
        }
        if self.cni.bin_dirs.is_empty() {
            found.add("cni.bin_dirs", "must name at least one directory");
        }
    }

    fn check_limits(&self, found: &mut Found) {
        const DAY: u64 = 24 * 60 * 60;
        found.range("cni.timeout_seconds", self.cni.timeout_seconds, 1, 60 * 60);
        found.range(
            "image.progress_timeout_seconds",
            self.image.progress_timeout_seconds,
            1,
            DAY,
        );
        found.range(
            "image.max_parallel_layers",
            self.image.max_parallel_layers as u64,
            1,
            64,
        );
        found.range(
            "stream.idle_timeout_seconds",
            self.stream.idle_timeout_seconds,
            1,
            30 * DAY,
        );
        found.range("stream.token_ttl_seconds", self.stream.token_ttl_seconds, 1, 60 * 60);
        // A page is the smallest piece that keeps the tag and time small beside the text; the
        // kubelet reads lines of up to 1 MiB.
        found.range(
            "runtime.max_log_line",
            u64::from(self.runtime.max_log_line),
            4096,
            1 << 20,
        );
        // 1024 is what the policies of distributions know (mcs_constraints); two are a pair.
        found.range(
            "runtime.selinux_category_range",
            u64::from(self.runtime.selinux_category_range),
            2,
            1024,
        );
        if let Some(listen) = self.metrics.listen
            && listen.port() == 0
        {
            found.add(
                "metrics.listen",
                "needs a port: nobody would find one that the kernel chose",
            );
        }
    }

    fn check_names(&self, found: &mut Found) {
        found.capabilities("runtime.default_capabilities", &self.runtime.default_capabilities);
        if let Some(zone) = &self.runtime.timezone {
            let clean = !zone.starts_with('/') && zone.split('/').all(|part| !matches!(part, "" | "." | ".."));
            if !clean || zone.contains(char::is_control) {
                found.add(
                    "runtime.timezone",
                    format!("{zone:?} is no time zone; write one like Europe/Berlin"),
                );
            }
        }
        if let Some(name) = &self.runtime.apparmor_profile
            && (name.is_empty() || name.contains(char::is_control))
        {
            found.add("runtime.apparmor_profile", format!("{name:?} is no name of a profile"));
        }
        for device in &self.runtime.allowed_devices {
            found.path("runtime.allowed_devices", Path::new(device));
        }
        for line in &self.runtime.default_sysctls {
            if let Err(why) = sysctl(line) {
                found.add("runtime.default_sysctls", format!("{line:?}: {why}"));
            }
        }
        if self.cni.network_name.as_deref() == Some("") {
            found.add(
                "cni.network_name",
                "must not be empty; null means the first network found",
            );
        }
        if self.image.pinned.iter().any(|name| name.trim().is_empty()) {
            found.add("image.pinned", "has an empty name");
        }
        for (name, handler) in &self.handlers {
            if !is_label(name) {
                let what = "is no handler name: lower-case letters, digits and '-', 63 at most";
                found.add(&format!("handlers.{name}"), format!("{name:?} {what}"));
            }
            check_handler(&format!("handlers.{name}"), handler, found);
        }
        let default = &self.runtime.default_handler;
        if default != BUILT_IN_HANDLER && !self.handlers.contains_key(default) {
            found.add(
                "runtime.default_handler",
                format!("{default:?} is not among the handlers"),
            );
        }
    }
}

fn check_handler(key: &str, handler: &Handler, found: &mut Found) {
    if let Some(list) = &handler.default_capabilities {
        found.capabilities(&format!("{key}.default_capabilities"), list);
    }
    if handler.privileged_without_host_devices_all_devices_allowed && !handler.privileged_without_host_devices {
        found.add(
            &format!("{key}.privileged_without_host_devices_all_devices_allowed"),
            "needs privileged_without_host_devices",
        );
    }
    if let Some(path) = &handler.seccomp_profile {
        found.path(&format!("{key}.seccomp_profile"), path);
    }
    for line in &handler.default_annotations {
        if line.split_once('=').is_none_or(|(name, _)| name.trim().is_empty()) {
            found.add(
                &format!("{key}.default_annotations"),
                format!("{line:?}: a name, '=' and a value are wanted"),
            );
        }
    }
    for (list, patterns) in [
        ("pod_annotations", &handler.pod_annotations),
        ("container_annotations", &handler.container_annotations),
    ] {
        for pattern in patterns {
            if pattern.is_empty() || pattern.contains(['[', ']', '{', '}', '\\']) {
                let what = "is no pattern: a name in which * and ? stand for what is not '/'";
                found.add(&format!("{key}.{list}"), format!("{pattern:?} {what}"));
            }
        }
    }
}

/// A line of `default_sysctls`: name and value.
pub(crate) fn sysctl(line: &str) -> Result<(String, String), &'static str> {
    let (name, value) = line
        .split_once('=')
        .ok_or("a name, '=' and a value are wanted, like net.core.somaxconn=1024")?;
    let name = spec::sysctl::check(name.trim(), value.trim())?;
    match spec::sysctl::owner(&name) {
        Some(_) => Ok((name, value.trim().to_owned())),
        None => Err("it belongs to no namespace of a pod and would change the host"),
    }
}

/// A DNS label, which is what the API server takes as `RuntimeClass.handler`.
fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, key: &str, message: impl Into<String>) {
        self.0.push(Problem {
            key: key.to_owned(),
            message: message.into(),
        });
    }

    fn path(&mut self, key: &str, path: &Path) {
        let Some(text) = path.to_str() else {
            return self.add(key, format!("{} is not UTF-8", path.display()));
        };
        if !path.is_absolute() {
            self.add(key, format!("{text:?} must be an absolute path"));
        } else if path.components().any(|part| part == Component::ParentDir) {
            self.add(key, format!("{text:?} must not contain \"..\""));
        } else if text.contains(char::is_control) {
            self.add(key, format!("{text:?} must not contain control characters"));
        }
    }

    fn capabilities(&mut self, key: &str, names: &[String]) {
        for name in names {
            if !CAPABILITIES.contains(&name.as_str()) {
                let hint = match name.strip_prefix("CAP_") {
                    Some(short) if CAPABILITIES.contains(&short) => format!("; write {short}"),
                    _ => String::new(),
                };
                self.add(key, format!("{name:?} is no capability{hint}"));
            }
        }
    }

    fn range(&mut self, key: &str, value: u64, least: u64, most: u64) {
        if !(least..=most).contains(&value) {
            let hint = if most.is_multiple_of(3600) && key.ends_with("_seconds") {
                format!(" ({:?})", Duration::from_secs(most))
            } else {
                String::new()
            };
            self.add(key, format!("{value} is out of range: {least} to {most}{hint}"));
        }
    }
}
