//! The metrics of pods and containers: name, help, labels, kind. The list is that of cAdvisor, by whose names dashboards
//! ask and which critest checks (Kubernetes 1.37).

use proto::cri::{MetricDescriptor, MetricType};

/// Labels that every metric has, in this order.
pub(super) const BASE: [&str; 5] = ["id", "image", "namespace", "pod", "container"];

/// One metric.
#[derive(Debug)]
pub(super) struct Measure {
    pub(super) name: &'static str,
    help: &'static str,
    /// Labels after those that every metric has.
    pub(super) labels: &'static [&'static str],
    pub(super) kind: MetricType,
}

macro_rules! measures {
    ($($constant:ident $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub(super) const $constant: Measure = Measure {
                name: $name,
                help: $help,
                labels: &[$($label),*],
                kind: MetricType::$kind,
            };
        )*
        /// All of them.
        pub(super) const ALL: &[Measure] = &[$($constant),*];
    };
}

measures! {
    CPU_USAGE Counter "container_cpu_usage_seconds_total" ["cpu"] "CPU time used, in seconds";
    CPU_USER Counter "container_cpu_user_seconds_total" [] "CPU time used in user space, in seconds";
    CPU_SYSTEM Counter "container_cpu_system_seconds_total" [] "CPU time used in the kernel, in seconds";
    CPU_PERIODS Counter "container_cpu_cfs_periods_total" [] "Enforcement periods that have passed";
    CPU_THROTTLED_PERIODS Counter "container_cpu_cfs_throttled_periods_total" [] "Periods in which the container was throttled";
    CPU_THROTTLED Counter "container_cpu_cfs_throttled_seconds_total" [] "Time that the container was throttled, in seconds";

    MEMORY_CACHE Gauge "container_memory_cache" [] "Page cache, in bytes";
    MEMORY_RSS Gauge "container_memory_rss" [] "Anonymous memory, in bytes";
    MEMORY_KERNEL Gauge "container_memory_kernel_usage" [] "Memory of the kernel on the container's behalf, in bytes";
    MEMORY_MAPPED Gauge "container_memory_mapped_file" [] "Mapped files, in bytes";
    MEMORY_SWAP Gauge "container_memory_swap" [] "Swap in use, in bytes";
    MEMORY_FAILCNT Counter "container_memory_failcnt" [] "How often the memory limit was hit";
    MEMORY_USAGE Gauge "container_memory_usage_bytes" [] "Memory in use, page cache included, in bytes";
    MEMORY_MAX Gauge "container_memory_max_usage_bytes" [] "Most memory that was ever in use, in bytes";
    MEMORY_WORKING_SET Gauge "container_memory_working_set_bytes" [] "Memory in use without inactive files, in bytes";
    MEMORY_FAILURES Counter "container_memory_failures_total" ["failure_type" "scope"] "Page faults";
    OOM_EVENTS Counter "container_oom_events_total" [] "Processes that the OOM killer has killed";

    FS_INODES_FREE Gauge "container_fs_inodes_free" [] "Free inodes of the filesystem of the writable layer";
    FS_INODES Gauge "container_fs_inodes_total" [] "Inodes of the filesystem of the writable layer";
    FS_LIMIT Gauge "container_fs_limit_bytes" [] "Size of the filesystem of the writable layer, in bytes";
    FS_USAGE Gauge "container_fs_usage_bytes" [] "Size of the writable layer, in bytes";
    FS_READ_BYTES Counter "container_fs_reads_bytes_total" ["device"] "Bytes read";
    FS_READS Counter "container_fs_reads_total" ["device"] "Reads";
    FS_WRITTEN_BYTES Counter "container_fs_writes_bytes_total" ["device"] "Bytes written";
    FS_WRITES Counter "container_fs_writes_total" ["device"] "Writes";
    BLKIO Counter "container_blkio_device_usage_total" ["device" "major" "minor" "operation"] "Bytes transferred with a block device";

    HUGETLB Gauge "container_hugetlb_usage_bytes" ["pagesize"] "Huge pages in use, in bytes";
    HUGETLB_MAX Gauge "container_hugetlb_max_usage_bytes" ["pagesize"] "Most huge pages that were ever in use, in bytes";

    RX_BYTES Counter "container_network_receive_bytes_total" ["interface"] "Bytes received";
    RX_PACKETS Counter "container_network_receive_packets_total" ["interface"] "Packets received";
    RX_DROPPED Counter "container_network_receive_packets_dropped_total" ["interface"] "Packets received and dropped";
    RX_ERRORS Counter "container_network_receive_errors_total" ["interface"] "Bad packets received";
    TX_BYTES Counter "container_network_transmit_bytes_total" ["interface"] "Bytes sent";
    TX_PACKETS Counter "container_network_transmit_packets_total" ["interface"] "Packets sent";
    TX_DROPPED Counter "container_network_transmit_packets_dropped_total" ["interface"] "Packets dropped before they were sent";
    TX_ERRORS Counter "container_network_transmit_errors_total" ["interface"] "Packets that could not be sent";

    PROCESSES Gauge "container_processes" [] "Processes";
    FILE_DESCRIPTORS Gauge "container_file_descriptors" [] "Open file descriptors";
    SOCKETS Gauge "container_sockets" [] "Open sockets";
    THREADS Gauge "container_threads" [] "Threads";
    THREADS_MAX Gauge "container_threads_max" [] "Threads that are possible; 0 where there is no limit";
    ULIMITS Gauge "container_ulimits_soft" ["ulimit"] "Soft limits of the first process";

    PRESSURE_CPU_STALLED Counter "container_pressure_cpu_stalled_seconds_total" [] "Time that all tasks waited for a CPU, in seconds";
    PRESSURE_CPU_WAITING Counter "container_pressure_cpu_waiting_seconds_total" [] "Time that a task waited for a CPU, in seconds";
    PRESSURE_IO_STALLED Counter "container_pressure_io_stalled_seconds_total" [] "Time that all tasks waited for block devices, in seconds";
    PRESSURE_IO_WAITING Counter "container_pressure_io_waiting_seconds_total" [] "Time that a task waited for block devices, in seconds";
    PRESSURE_MEMORY_STALLED Counter "container_pressure_memory_stalled_seconds_total" [] "Time that all tasks waited for memory, in seconds";
    PRESSURE_MEMORY_WAITING Counter "container_pressure_memory_waiting_seconds_total" [] "Time that a task waited for memory, in seconds";

    SPEC_CPU_PERIOD Gauge "container_spec_cpu_period" [] "CPU period, in microseconds";
    SPEC_CPU_QUOTA Gauge "container_spec_cpu_quota" [] "CPU quota, in microseconds, where there is one";
    SPEC_CPU_SHARES Gauge "container_spec_cpu_shares" [] "CPU shares";
    SPEC_MEMORY Gauge "container_spec_memory_limit_bytes" [] "Memory limit, in bytes; 0 where there is none";
    SPEC_MEMORY_RESERVATION Gauge "container_spec_memory_reservation_limit_bytes" [] "Memory reservation, in bytes; 0 where there is none";
    SPEC_MEMORY_SWAP Gauge "container_spec_memory_swap_limit_bytes" [] "Limit of memory and swap together, in bytes; 0 where there is none";

    LAST_SEEN Gauge "container_last_seen" [] "When the container was last seen, in seconds since the epoch";
    START_TIME Gauge "container_start_time_seconds" [] "When the container started, in seconds since the epoch";
}

/// The descriptors, as CRI has them.
pub(crate) fn descriptors() -> Vec<MetricDescriptor> {
    let keys = |measure: &Measure| BASE.iter().chain(measure.labels).map(|&key| key.to_owned()).collect();
    let describe = |measure: &Measure| MetricDescriptor {
        name: measure.name.to_owned(),
        help: measure.help.to_owned(),
        label_keys: keys(measure),
    };
    ALL.iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn there_are_56_metrics_each_with_help_and_labels() {
        let all = descriptors();
        let names: HashSet<&str> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!((all.len(), names.len()), (56, 56));
        assert!(all.iter().all(|one| !one.help.is_empty() && one.label_keys.len() >= 5));
        for measure in ALL {
            let counts = measure.name.ends_with("_total") || measure.name.ends_with("failcnt");
            let gauges = ["container_fs_inodes_total"];
            assert_eq!(
                measure.kind == MetricType::Counter,
                counts && !gauges.contains(&measure.name),
                "{}",
                measure.name
            );
        }
    }
}
