//! The cases.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::daemon::{Daemon, received};

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
