use std::time::Duration;

use proto::monitor::{self as wire, request::Verb};

use crate::driver::{Bundle, Spawner, strip, until};

#[test]
fn lines_partial_lines_and_empty_ones() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new(r"printf 'a\n\n123456789\n1234567890\n12345678901\nend'");
    bundle.create.max_log_line = 10;
    bundle.run(&spawner).exited();
    let expected = "stdout F a\nstdout F \nstdout F 123456789\nstdout F 1234567890\nstdout P 1234567890\nstdout F 1\nstdout P end\n";
    assert_eq!(bundle.records(), expected);
}

#[test]
fn a_line_of_a_megabyte() {
    let spawner = Spawner::start();
    let bundle = Bundle::new("head -c 1048576 /bin/busybox | tr -c x x; echo; echo after");
    bundle.run(&spawner).exited();
    let records = bundle.records();
    let mut joined = String::new();
    let mut lines = records.lines();
    for line in lines.by_ref() {
        joined.push_str(&line[9..]);
        assert!(line.len() <= 9 + 16_384);
        if line.starts_with("stdout F") {
            break;
        }
    }
    assert_eq!(joined.len(), 1_048_576);
    assert_eq!(lines.collect::<Vec<_>>(), ["stdout F after"]);
}

#[test]
fn the_file_is_for_its_owner_and_appended_to() {
    use std::os::unix::fs::PermissionsExt as _;
    let spawner = Spawner::start();
    let bundle = Bundle::new("echo new");
    std::fs::write(&bundle.create.log_path, "2000-01-01T00:00:00.000000000Z stdout F old\n").unwrap();
    bundle.run(&spawner).exited();
    assert_eq!(bundle.records(), "stdout F old\nstdout F new\n");
    let bundle = Bundle::new("echo new");
    bundle.run(&spawner).exited();
    let mode = std::fs::metadata(&bundle.create.log_path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
}

#[test]
fn links_and_fifos_in_the_logs_place_are_refused() {
    let spawner = Spawner::start();
    let mut monitor = spawner.monitor();
    let bundle = Bundle::new("echo x");
    let target = bundle.path("elsewhere");
    std::os::unix::fs::symlink(&target, &bundle.create.log_path).unwrap();
    bundle.create(&mut monitor).unwrap_err();
    assert!(!target.exists());
    std::fs::remove_file(&bundle.create.log_path).unwrap();
    std::process::Command::new("mkfifo")
        .arg(&bundle.create.log_path)
        .status()
        .unwrap();
    bundle.create(&mut monitor).unwrap_err();
}

#[test]
fn no_path_means_no_log() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("seq 1 100000; exit 4");
    bundle.create.log_path = String::new();
    let mut monitor = bundle.run(&spawner);
    monitor.call(Verb::ReopenLog(wire::ReopenLog {})).unwrap();
    assert_eq!(monitor.exited().exit_code, 4);
}

#[test]
fn reopening_under_load_loses_and_doubles_nothing() {
    let spawner = Spawner::start();
    // It waits at the end, so that the monitor is there for every reopen, however fast the machine.
    let mut bundle = Bundle::new("seq 1 3000000; read line");
    bundle.create.stdin = true;
    let mut monitor = bundle.run(&spawner);
    let mut files = Vec::new();
    for number in 1..200 {
        let old = bundle.path(&format!("logs/0.log.{number}"));
        std::fs::rename(&bundle.create.log_path, &old).unwrap();
        files.push(old);
        monitor.call(Verb::ReopenLog(wire::ReopenLog {})).unwrap();
        assert!(
            std::path::Path::new(&bundle.create.log_path).exists(),
            "reopen answers when the file is there"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    let relay = crate::attach::Relay::open(&mut monitor);
    relay.send(&[1, b'\n']);
    monitor.exited();
    files.push(bundle.create.log_path.clone().into());
    let mut next = 1;
    let mut filled = 0;
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        filled += usize::from(!text.is_empty());
        for line in strip(&text).lines() {
            assert_eq!(line, format!("stdout F {next}"), "{}", file.display());
            next += 1;
        }
    }
    assert_eq!(next, 3_000_001);
    assert!(filled > 10, "{filled} files with lines: too few to mean anything");
}

#[test]
fn a_reopen_that_fails_keeps_the_old_file() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("echo one; read line; echo two");
    bundle.create.stdin = true;
    let mut monitor = bundle.run(&spawner);
    until("one", || bundle.records().contains("one"));
    let moved = bundle.path("moved");
    std::fs::rename(bundle.path("logs"), &moved).unwrap();
    let failure = monitor.call(Verb::ReopenLog(wire::ReopenLog {})).unwrap_err();
    assert_eq!(failure.kind, "not_found");
    let relay = crate::attach::Relay::open(&mut monitor);
    relay.send(&[1, b'\n']);
    assert_eq!(monitor.exited().exit_code, 0);
    assert_eq!(
        strip(&std::fs::read_to_string(moved.join("0.log")).unwrap()),
        "stdout F one\nstdout F two\n"
    );
}

/// A file system that is small, mounted and unmounted by this test alone.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(path: std::path::PathBuf, size: &str) -> Self {
        std::fs::create_dir(&path).unwrap();
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path)
            .status();
        assert!(status.unwrap().success());
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status()
            .unwrap();
    }
}

#[test]
fn a_full_disk_stops_nobody_and_is_told_when_there_is_room() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("seq 1 200000; echo waiting > /tmp/mark; read line; echo afterwards; exit 6");
    bundle.create.stdin = true;
    let disk = SmallDisk::new(bundle.path("small"), "4m");
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![0; 4_000_000]).unwrap();
    bundle.create.log_path = disk.0.join("0.log").to_str().unwrap().to_owned();
    let mut monitor = bundle.run(&spawner);
    until("it has written all", || bundle.path("rootfs/tmp/mark").exists());
    std::fs::remove_file(&filler).unwrap();
    let relay = crate::attach::Relay::open(&mut monitor);
    relay.send(&[1, b'\n']);
    assert_eq!(monitor.exited().exit_code, 6);
    let records = bundle.records();
    let lines: Vec<&str> = records.lines().collect();
    let gap = lines
        .iter()
        .position(|line| line.contains("[bulkhead:"))
        .expect("a record about the gap");
    for (index, line) in lines[..gap].iter().enumerate() {
        assert_eq!(*line, format!("stdout F {}", index + 1));
    }
    assert_eq!(*lines.last().unwrap(), "stdout F afterwards");
    let lost: usize = lines[gap]
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .unwrap();
    let after = lines.len() - gap - 2;
    assert_eq!(gap + lost + after, 200_000, "{}", lines[gap]);
}
