//! `bulkhead serve` as a process: two side by side, signals, the service manager, metrics.
//! Needs root and the monitor program, which the test builds.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
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
struct Daemon {
    dir: tempfile::TempDir,
    cgroup: String,
    process: Option<Child>,
}

impl Daemon {
    fn new(name: &str, more: &str) -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, verb: &str) -> Command {
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
    fn start(&mut self) {
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

    fn signal(&self, name: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn stop(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.process.take().unwrap().wait().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn wait_for_log(&self, words: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.log().contains(words) {
            assert!(Instant::now() < until, "{words:?} is not in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `bulkhead status --json` says.
    fn status(&self) -> String {
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

fn received(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_daemons_live_side_by_side() {
        let (mut one, mut two) = (Daemon::new("one", ""), Daemon::new("two", ""));
        one.start();
        two.start();
        assert!(one.status().contains("RuntimeReady"), "{}", one.status());
        for daemon in [&one, &two] {
            let mode = |name: &str| fs::metadata(daemon.path(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode("state/bulkhead.sock"), 0o600);
            assert_eq!(mode("root"), 0o700);
        }
        assert!(one.stop().success(), "{}", one.log());
        assert!(!one.path("state/bulkhead.sock").exists());
        assert!(two.status().contains("RuntimeReady"), "{}", two.log());
    }

    #[test]
    fn a_second_daemon_on_the_same_directories_is_refused() {
        let mut first = Daemon::new("first", "");
        first.start();
        let second = first.command("serve").output().unwrap();
        let text = String::from_utf8(second.stderr).unwrap();
        assert!(
            !second.status.success() && text.contains("in use by another daemon"),
            "{text}"
        );
        let other = Daemon::new("other", "");
        let done = other
            .command("serve")
            .arg("--listen")
            .arg(first.path("state/bulkhead.sock"))
            .output()
            .unwrap();
        let text = String::from_utf8(done.stderr).unwrap();
        assert!(
            !done.status.success() && text.contains("another program listens"),
            "{text}"
        );
        assert!(first.status().contains("RuntimeReady"));
        let wipe = first.command("wipe").output().unwrap();
        assert!(!wipe.status.success() && first.path("root/bulkhead.db").exists());
    }

    #[test]
    fn a_killed_daemon_is_followed_by_another() {
        let mut daemon = Daemon::new("killed", "");
        daemon.start();
        daemon.signal("-KILL");
        daemon.process.take().unwrap().wait().unwrap();
        assert!(daemon.path("state/bulkhead.sock").exists());
        daemon.start();
        assert!(daemon.status().contains("RuntimeReady"));
    }

    #[test]
    fn a_hangup_changes_the_log_level_and_never_ends_it() {
        let mut daemon = Daemon::new("hangup", "");
        daemon.start();
        fs::write(daemon.path("config.d/1.yaml"), "log_level: debug\n").unwrap();
        daemon.signal("-HUP");
        daemon.wait_for_log("configuration read again log_level=debug");
        fs::write(daemon.path("config.d/1.yaml"), "log_levl: debug\n").unwrap();
        daemon.signal("-HUP");
        daemon.wait_for_log("1.yaml:1: log_levl: unknown field");
        fs::write(daemon.path("config.d/1.yaml"), "stream:\n  token_ttl_seconds: 9\n").unwrap();
        daemon.signal("-HUP");
        daemon.wait_for_log("they wait for a restart");
        assert!(daemon.status().contains("RuntimeReady"));
    }

    #[test]
    fn the_service_manager_hears_of_the_stop() {
        let mut daemon = Daemon::new("notify", "");
        daemon.start();
        let socket = UnixDatagram::bind(daemon.path("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(daemon.stop().success());
        assert_eq!(received(&socket), "STOPPING=1");
    }

    #[test]
    fn a_scraper_sees_calls_and_memory() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut daemon = Daemon::new("metrics", &format!("metrics:\n  listen: {free}\n"));
        daemon.start();
        daemon.status();
        let mut stream = TcpStream::connect(free).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(
            text.contains("bulkhead_operations_calls_total{operation=\"Status\"} 1"),
            "{text}"
        );
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }

    #[test]
    fn a_daemon_without_its_monitor_program_says_so() {
        let daemon = Daemon::new("bare", "");
        fs::write(
            daemon.path("config.yaml"),
            "monitor_path: /nonexistent/bulkhead-conmon\n",
        )
        .unwrap();
        let done = daemon.command("serve").output().unwrap();
        let text = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && text.contains("set monitor_path"), "{text}");
        assert_eq!(fs::read_dir(daemon.path("state/pods")).map_or(0, Iterator::count), 0);
    }
}
