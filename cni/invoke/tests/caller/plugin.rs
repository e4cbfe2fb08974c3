//! A node with plugins written as shell scripts, each of which logs its calls.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni_invoke::{Attachment, Cni, Options};
use serde_json::Value;

pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
}

/// What a well-behaved plugin prints for ADD.
pub(crate) const RESULT: &str = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"}]}"#;

impl Node {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Installs a plugin that logs, then runs `body` with `$CNI_COMMAND` set.
    pub(crate) fn plugin(&self, name: &str, body: &str) {
        let log = self.path("log");
        let text = format!(
            "#!/bin/sh\nIN=$(cat)\nprintf '%s %s %s|%s|%s|%s\\n' {name} \"$CNI_COMMAND\" \"$CNI_CONTAINERID\" \"$CNI_NETNS\" \"$CNI_ARGS\" \"$(echo \"$IN\" | tr -d '\\n')\" >> {}\n{body}\n",
            log.display()
        );
        self.install(name, &text);
    }

    /// Installs a program.
    pub(crate) fn install(&self, name: &str, text: &str) {
        // Written beside and renamed: a file that is open for writing cannot be executed, and
        // other tests fork while we write.
        let (fresh, path) = (self.path("bin").join(format!(".{name}")), self.path("bin").join(name));
        fs::write(&fresh, text).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(fresh, path).unwrap();
    }

    /// Installs a plugin that does as it should.
    pub(crate) fn good(&self, name: &str) {
        self.plugin(name, &format!("[ $CNI_COMMAND != ADD ] || echo '{RESULT}'"));
    }

    pub(crate) fn conf(&self, file: &str, text: &str) {
        fs::create_dir_all(self.path("net.d")).unwrap();
        fs::write(self.path("net.d").join(file), text).unwrap();
    }

    /// The network `net` of plugins `a` and `b`, where `b` takes port mappings.
    pub(crate) fn default_conf(&self) {
        self.conf(
            "10.conflist",
            r#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"a","key":1},{"type":"b","capabilities":{"portMappings":true,"off":false}}]}"#,
        );
    }

    pub(crate) fn cni(&self, timeout: Duration) -> Arc<Cni> {
        Cni::new(Options {
            conf_dir: self.path("net.d"),
            bin_dirs: vec![self.path("nothing"), self.path("bin")],
            cache_dir: self.path("cache"),
            timeout,
            network_name: None,
        })
    }

    /// The calls so far: plugin, verb and container, then namespace, arguments, configuration.
    pub(crate) fn log(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(4, '|').map(str::to_owned);
                let mut next = || parts.next().unwrap();
                let (call, netns, args, conf) = (next(), next(), next(), next());
                Line {
                    call,
                    netns,
                    args,
                    conf: serde_json::from_str(&conf).unwrap(),
                }
            })
            .collect()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.log().into_iter().map(|line| line.call).collect()
    }

    pub(crate) fn records(&self) -> usize {
        fs::read_dir(self.path("cache/results")).map_or(0, Iterator::count)
    }
}

pub(crate) struct Line {
    pub(crate) call: String,
    pub(crate) netns: String,
    pub(crate) args: String,
    pub(crate) conf: Value,
}

/// An attachment to a namespace that exists: this process' own, which the scripts never enter.
pub(crate) fn attachment(id: &str) -> Attachment {
    Attachment {
        container_id: id.to_owned(),
        netns: Some(PathBuf::from("/proc/self/ns/net")),
        ifname: "eth0".to_owned(),
        args: vec![
            ("IgnoreUnknown".to_owned(), "1".to_owned()),
            ("K8S_POD_NAME".to_owned(), "p".to_owned()),
        ],
        capabilities: serde_json::from_str(r#"{"portMappings":[{"hostPort":1}],"off":true,"bandwidth":{}}"#).unwrap(),
    }
}

/// Waits until the process whose number `file` holds is gone; false after two seconds.
pub(crate) fn is_dead(file: &Path) -> bool {
    let pid = fs::read_to_string(file).unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        // A zombie whose parent is init of a container may wait to be reaped; it runs no more.
        if stat.map_or(true, |stat| stat.rsplit(')').next().unwrap().trim().starts_with('Z')) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
