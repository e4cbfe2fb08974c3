//! A daemon as a process, with directories and a cgroup of its own.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_bulkhead");

/// The monitor program, built once.
fn monitor() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let profile = Path::new(PROGRAM).parent().unwrap().to_owned();
        let done = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "bulkhead-conmon", "--target-dir"])
            .arg(profile.parent().unwrap())
            .status()
            .unwrap();
        assert!(done.success(), "bulkhead-conmon does not build");
        profile.join("bulkhead-conmon")
    };
    BUILT.get_or_init(build).clone()
}

/// A daemon with directories and a cgroup of its own.
pub(crate) struct Daemon {
    dir: tempfile::TempDir,
    cgroup: String,
    pub(crate) process: Option<Child>,
}

impl Daemon {
    pub(crate) fn new(name: &str, more: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("bulkhead-serve-").tempdir().unwrap();
        let cgroup = format!("bulkhead-serve-{}-{name}", std::process::id());
        for made in ["net.d", "config.d"] {
            fs::create_dir(dir.path().join(made)).unwrap();
        }
        let config = format!("cgroup_root: {cgroup}\nmonitor_path: {}\n{more}", monitor().display());
        fs::write(dir.path().join("config.yaml"), config).unwrap();
        Self {
            dir,
            cgroup,
            process: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg(verb).stdin(Stdio::null());
        for (flag, name) in [
            ("--config", "config.yaml"),
            ("--config-dir", "config.d"),
            ("--root", "root"),
            ("--state", "state"),
            ("--cni-conf-dir", "net.d"),
        ] {
            command.arg(flag).arg(self.path(name));
        }
        command
    }

    /// Starts it and waits for READY.
    pub(crate) fn start(&mut self) {
        let socket = UnixDatagram::bind(self.path("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut command = self.command("serve");
        command
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stderr(fs::File::create(self.path("log")).unwrap());
        self.process = Some(command.spawn().unwrap());
        assert_eq!(received(&socket), "READY=1", "{}", self.log());
        fs::remove_file(self.path("notify")).unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.process.take().unwrap().wait().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn wait_for_log(&self, words: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.log().contains(words) {
            assert!(Instant::now() < until, "{words:?} is not in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `bulkhead status --json` says.
    pub(crate) fn status(&self) -> String {
        let done = self.command("status").arg("--json").output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        // The spawner ends with its socket; then the cgroups can go.
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let wiped = self.command("wipe").stdout(Stdio::null()).status().unwrap();
            let left = Command::new("find")
                .args(["/sys/fs/cgroup", "-name", &self.cgroup])
                .output()
                .unwrap()
                .stdout;
            if left.is_empty() && wiped.success() {
                return;
            }
            for dir in String::from_utf8(left).unwrap().lines() {
                fs::remove_dir(Path::new(dir).join("monitors")).unwrap_or_default();
                fs::remove_dir(dir).unwrap_or_default();
            }
            assert!(
                Instant::now() < until || std::thread::panicking(),
                "cgroup {} stays",
                self.cgroup
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub(crate) fn received(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}
