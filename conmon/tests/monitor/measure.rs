//! Measurements, for the small static build: `BULKHEAD_CONMON=… cargo test -p bulkhead-conmon --test monitor -- --ignored --nocapture measure`.

use std::time::Instant;

use proto::monitor::{self as wire, request::Verb};

use crate::driver::{Bundle, Spawner, until};

/// Kilobytes of one field.
fn rollup(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn measure_memory_of_idle_monitors() {
    let spawner = Spawner::start();
    let count = 30;
    let bundles: Vec<Bundle> = (0..count).map(|_| Bundle::new("echo up; sleep 1000")).collect();
    let mut monitors: Vec<_> = bundles.iter().map(|bundle| bundle.run(&spawner)).collect();
    bundles
        .iter()
        .for_each(|bundle| until("up", || bundle.records().contains("up")));
    // Past the moment when buffers are given back.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let sum = |field| {
        monitors
            .iter()
            .map(|monitor| rollup(monitor.monitor_pid, field))
            .sum::<u64>()
    };
    let (pss, private) = (sum("Pss:"), sum("Private_Dirty:"));
    eprintln!(
        "{count} monitors: PSS {} kB each, private dirty {} kB each",
        pss / count,
        private / count
    );
    assert!(pss / count <= 200, "an idle monitor costs {} kB", pss / count);
    for monitor in &mut monitors {
        monitor.call(Verb::Discard(wire::Discard {})).unwrap();
    }
}

#[test]
#[ignore = "a measurement"]
fn measure_log_throughput() {
    let spawner = Spawner::start();
    let mut bundle = Bundle::new("for i in 1 2 3 4 5 6 7 8; do cat /tmp/lines; done; echo > /tmp/mark; read line");
    let lines = format!("{}\n", "x".repeat(99)).repeat(512 * 1024);
    std::fs::write(bundle.path("rootfs/tmp/lines"), &lines).unwrap();
    bundle.create.stdin = true;
    bundle.create.log_path = "/dev/shm/bulkhead-measure.log".to_owned();
    let before = Instant::now();
    let mut monitor = bundle.run(&spawner);
    until("all is written", || bundle.path("rootfs/tmp/mark").exists());
    let seconds = before.elapsed().as_secs_f64();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", monitor.monitor_pid)).unwrap();
    let ticks: f64 = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .skip(11)
        .take(2)
        .map(|text| text.parse::<f64>().unwrap())
        .sum();
    monitor.kill(9, true);
    monitor.exited();
    let size = std::fs::metadata(&bundle.create.log_path).unwrap().len();
    std::fs::remove_file(&bundle.create.log_path).unwrap();
    let mebibytes = 400.0;
    eprintln!(
        "{:.0} MiB/s of lines of 100 bytes; {:.0} MiB for a second of the monitor's CPU",
        mebibytes / seconds,
        mebibytes / (ticks / 100.0)
    );
    assert_eq!(size, 8 * 512 * 1024 * 140);
}

#[test]
#[ignore = "a measurement"]
fn measure_verbs() {
    let spawner = Spawner::start();
    let (mut create, mut start, mut exec, mut end) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..50 {
        let bundle = Bundle::new("sleep 1000");
        let at = Instant::now();
        let mut monitor = spawner.monitor();
        bundle.create(&mut monitor).unwrap();
        create.push(at.elapsed());
        let at = Instant::now();
        monitor.start();
        start.push(at.elapsed());
        let request = wire::Exec {
            process_json: crate::driver::process(&["/bin/true"]).to_string().into_bytes(),
            ..wire::Exec::default()
        };
        let at = Instant::now();
        monitor.call(Verb::Exec(request)).unwrap();
        monitor.exec_exited(u64::try_from(2).unwrap());
        exec.push(at.elapsed());
        let at = Instant::now();
        monitor.kill(9, true);
        monitor.exited();
        end.push(at.elapsed());
    }
    for (name, mut times) in [
        ("spawn + create", create),
        ("start", start),
        ("exec", exec),
        ("kill to exited", end),
    ] {
        times.sort();
        eprintln!("{name}: p50 {:?} p99 {:?}", times[25], times[49]);
    }
}
