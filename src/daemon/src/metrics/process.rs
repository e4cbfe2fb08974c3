//! Figures of this process, read when somebody asks: memory, descriptors, threads, time. Names and units are those that
//! Prometheus' own libraries have for every process.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The collector.
#[derive(Debug)]
pub(crate) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let descriptors = fs::read_dir("/proc/self/fd")
            .ok()
            .and_then(|all| i64::try_from(all.count()).ok());
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory",
                field(&status, "VmRSS:").map(|kib| kib * 1024),
            ),
            ("process_threads", "Threads", field(&status, "Threads:")),
            ("process_open_fds", "Open descriptors", descriptors),
            (
                "process_max_fds",
                "Descriptors that may be open",
                field(&limits, "Max open files"),
            ),
            (
                "process_virtual_memory_bytes",
                "Address space",
                field(&status, "VmSize:").map(|kib| kib * 1024),
            ),
        ] {
            // What cannot be read is left out, which a scraper understands; 0 would be a lie.
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
            }
        }
        if let Some(used) = used(&stat) {
            let (name, help) = ("process_cpu_seconds", "Processor time");
            let counter = ConstCounter::new(used);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
        if let Some(began) = began(&stat, &booted) {
            let (name, help) = ("process_start_time_seconds", "When it was started, since 1970");
            let gauge = ConstGauge::new(began);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

/// Field `number` of `/proc/PID/stat`, one of ticks, in seconds (proc_pid_stat(5)). The second field may hold anything.
fn ticks(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: f64 = rest.split_whitespace().nth(number - 3)?.parse().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "it is 100")]
    let second = rustix::param::clock_ticks_per_second() as f64;
    Some(ticks / second)
}

/// Time in programs and in the kernel.
fn used(stat: &str) -> Option<f64> {
    Some(ticks(stat, 14)? + ticks(stat, 15)?)
}

/// When the process was started; the kernel tells since the boot.
fn began(stat: &str, booted: &str) -> Option<f64> {
    let boot = booted.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + ticks(stat, 22)?)
}

/// The first number of a row of `/proc/self/status` or `limits`.
fn field(status: &str, name: &str) -> Option<i64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for name in [
            "process_resident_memory_bytes",
            "process_threads",
            "process_open_fds",
            "process_max_fds",
            "process_virtual_memory_bytes",
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            assert!(value.trim().parse::<i64>().unwrap() > 0, "{text}");
        }
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
        let began = text
            .lines()
            .find_map(|line| line.strip_prefix("process_start_time_seconds "));
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let age = now.as_secs_f64() - began.unwrap().parse::<f64>().unwrap();
        assert!((-2.0..3600.0).contains(&age), "{age}: {text}");
        let stat = "7 (a) b) S 1 7 7 0 -1 4 5 0 0 0 250 50 0 0 20 0 1 0 1000 5";
        assert_eq!(used(stat), Some(3.0));
        assert_eq!(super::began(stat, "cpu 1\nbtime 100\n"), Some(110.0));
        assert_eq!(field("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(
            field(
                "Max open files            1024                 4096                 files\n",
                "Max open files"
            ),
            Some(1024)
        );
        assert_eq!(field("", "VmRSS:"), None);
    }
}
