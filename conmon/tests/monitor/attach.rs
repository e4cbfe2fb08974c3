use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use proto::monitor::{self as wire, request::Verb};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::driver::{Bundle, Connection, DEADLINE, Spawner, until};

/// The daemon's end of an attach.
pub(crate) struct Relay(OwnedFd);

impl Relay {
    pub(crate) fn open(connection: &mut Connection) -> Self {
        let (_, fds) = connection.call(Verb::Attach(wire::Attach {})).unwrap();
        Self(fds.into_iter().next().unwrap())
    }

    pub(crate) fn send(&self, packet: &[u8]) {
        send(&self.0, packet, SendFlags::NOSIGNAL).unwrap();
    }

    /// Sends what goes without waiting.
    pub(crate) fn try_send(&self, packet: &[u8]) {
        send(&self.0, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).ok();
    }

    /// A packet; empty at the end.
    fn packet(&self) -> Vec<u8> {
        let mut buffer = vec![0; 16 * 1024 + 1];
        let mut fds = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
        let deadline = rustix::event::Timespec {
            tv_sec: DEADLINE.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        assert_eq!(
            rustix::event::poll(&mut fds, Some(&deadline)).unwrap(),
            1,
            "no packet in time"
        );
        let (_, count) = recv(&self.0, &mut buffer[..], RecvFlags::empty()).unwrap();
        assert!(count <= 16 * 1024);
        buffer.truncate(count);
        buffer
    }

    /// All of stdout and stderr until the end.
    fn all(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match self.packet().as_slice() {
                [2, bytes @ ..] => out.extend_from_slice(bytes),
                [3, bytes @ ..] => err.extend_from_slice(bytes),
                [] => return (out, err),
                other => panic!("{other:?}"),
            }
        }
    }

    fn until(&self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let packet = self.packet();
            assert!(!packet.is_empty(), "ended before {text:?}: {seen:?}");
            seen.push_str(std::str::from_utf8(&packet[1..]).unwrap());
        }
        seen
    }
}

#[test]
fn who_is_attached_before_the_start_misses_nothing() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("seq 1 100000; echo problem >&2");
    let mut monitor = spawner.monitor();
    bundle.create(&mut monitor).unwrap();
    let relays = [Relay::open(&mut monitor), Relay::open(&mut monitor)];
    let readers = relays.map(|relay| std::thread::spawn(move || relay.all()));
    monitor.start();
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    for reader in readers {
        let (out, err) = reader.join().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(err, b"problem\n");
    }
    assert_eq!(monitor.exited().exit_code, 0);
}

#[test]
fn input_comes_from_anybody_and_stays_open() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("while read line; do echo got $line; done; echo end");
    bundle.create.stdin = true;
    let mut monitor = bundle.run(&spawner);
    for word in ["one", "two"] {
        let relay = Relay::open(&mut monitor);
        relay.send(&[&[1], word.as_bytes(), b"\n"].concat());
        relay.until(&format!("got {word}\n"));
        relay.send(&[5]);
    }
    monitor.kill(9, true);
    monitor.exited();
    assert_eq!(bundle.records(), "stdout F got one\nstdout F got two\n");
}

#[test]
fn stdin_once_closes_with_its_client() {
    let spawner = Spawner::start();
    for by_packet in [true, false] {
        let mut bundle = Bundle::new("cat; echo end");
        bundle.create.stdin = true;
        bundle.create.stdin_once = true;
        let mut monitor = bundle.run(&spawner);
        // One that only looks on does not count.
        drop(Relay::open(&mut monitor));
        let relay = Relay::open(&mut monitor);
        relay.send(b"\x01text\n");
        relay.until("text\n");
        if by_packet {
            relay.send(&[5]);
            assert_eq!(relay.all().0, b"end\n");
        } else {
            drop(relay);
        }
        assert_eq!(monitor.exited().exit_code, 0);
        assert_eq!(bundle.records(), "stdout F text\nstdout F end\n");
    }
}

#[test]
fn much_input_arrives_whole() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("cat > /tmp/copy; exit 0");
    bundle.create.stdin = true;
    bundle.create.stdin_once = true;
    let mut monitor = bundle.run(&spawner);
    let relay = Relay::open(&mut monitor);
    let bytes: Vec<u8> = (0..5_000_000u32)
        .map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 24).unwrap())
        .collect();
    for part in bytes.chunks(16_000) {
        relay.send(&[&[1], part].concat());
    }
    relay.send(&[5]);
    assert_eq!(monitor.exited().exit_code, 0);
    assert!(std::fs::read(bundle.path("rootfs/tmp/copy")).unwrap() == bytes);
}

#[test]
fn a_client_that_does_not_read_stalls_nobody() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("seq 1 1000000; exit 2");
    let mut monitor = spawner.monitor();
    bundle.create(&mut monitor).unwrap();
    let stalled = Relay::open(&mut monitor);
    let before = Instant::now();
    monitor.start();
    assert_eq!(monitor.exited().exit_code, 2);
    assert!(before.elapsed() < Duration::from_secs(15));
    assert!(bundle.records().ends_with("stdout F 1000000\n"));
    // It was let go; what it had waiting is all it gets.
    assert!(stalled.all().0.len() < 4 << 20);
}

#[test]
fn a_terminal() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("stty size; read line; echo \"<$line>\"; stty size; echo oops >&2; exit 0");
    bundle.config["process"]["terminal"] = true.into();
    bundle.config["process"]["consoleSize"] = serde_json::json!({"height": 30, "width": 100});
    bundle.create.stdin = true;
    let mut monitor = bundle.run(&spawner);
    until("its first size", || bundle.records().contains("30 100"));
    monitor
        .call(Verb::Resize(wire::Resize { columns: 80, rows: 24 }))
        .unwrap();
    let relay = Relay::open(&mut monitor);
    relay.send(&[4, 81, 0, 25, 0]);
    relay.send(b"\x01hello\n");
    let seen = relay.until("oops");
    assert!(seen.contains("<hello>") && seen.contains("25 81"), "{seen:?}");
    assert_eq!(monitor.exited().exit_code, 0);
    let records = bundle.records();
    assert!(
        records.lines().all(|line| line.starts_with("stdout F")) && records.contains("oops\r\n"),
        "{records:?}"
    );
}

#[test]
fn clients_come_and_go_and_are_limited() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("sleep 100");
    let mut monitor = bundle.run(&spawner);
    let fds = |monitor: &Connection| {
        std::fs::read_dir(format!("/proc/{}/fd", monitor.monitor_pid))
            .unwrap()
            .count()
    };
    let before = fds(&monitor);
    for _ in 0..500 {
        drop(Relay::open(&mut monitor));
    }
    let relays: Vec<Relay> = (0..64).map(|_| Relay::open(&mut monitor)).collect();
    assert_eq!(
        monitor.call(Verb::Attach(wire::Attach {})).unwrap_err().kind,
        "resource_exhausted"
    );
    drop(relays);
    until("descriptors are closed", || fds(&monitor) == before);
    drop(Relay::open(&mut monitor));
    monitor.kill(9, true);
    monitor.exited();
}
