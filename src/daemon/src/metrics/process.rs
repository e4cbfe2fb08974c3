//! Figures of this process, read when somebody asks: memory, descriptors, threads.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

/// The collector.
#[derive(Debug)]
pub(crate) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
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
        ] {
            // What cannot be read is left out, which a scraper understands; 0 would be a lie.
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
            }
        }
        Ok(())
    }
}

/// The first number of a row of `/proc/self/status`.
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
        for name in ["process_resident_memory_bytes", "process_threads", "process_open_fds"] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            assert!(value.trim().parse::<i64>().unwrap() > 0, "{text}");
        }
        assert_eq!(field("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(field("", "VmRSS:"), None);
    }
}
