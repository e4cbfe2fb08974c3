//! E7: the container's spec.

use anyhow::{Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::config::security;
use e2e::{Bed, container, test};

#[test]
fn e7_an_empty_list_of_masked_paths_means_none() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let line = "head -c 4 /proc/timer_list | wc -c; grep -c ' /proc/sys ' /proc/self/mounts";
        let mut masked = container("masked", BUSYBOX, &["sh", "-c", line]);
        security(&mut masked).masked_paths = vec!["/proc/timer_list".into()];
        let (_, lines) = bed.run_to_end(&masked).await?;
        let text = e2e::logs::joined(&lines, "stdout");
        ensure!(text == "0\n1\n", "masked: {text:?}");
        let mut open = container("open", BUSYBOX, &["sh", "-c", line]);
        security(&mut open).masked_paths.clear();
        security(&mut open).readonly_paths.clear();
        let (_, lines) = bed.run_to_end(&open).await?;
        let text = e2e::logs::joined(&lines, "stdout");
        ensure!(text == "4\n0\n", "unmasked: {text:?}");
        Ok(())
    });
}

#[test]
fn e7_names_of_capabilities_with_and_without_prefix_are_the_same() {
    test(async |node| -> Result<()> {
        let bed = Bed::new(node).await?;
        let mut seen = Vec::new();
        for (name, capability) in [
            ("without", "SYS_TIME"),
            ("with", "CAP_SYS_TIME"),
            ("small", "cap_sys_time"),
        ] {
            let mut config = container(name, BUSYBOX, &["grep", "CapEff", "/proc/self/status"]);
            let capabilities = security(&mut config).capabilities.get_or_insert_default();
            capabilities.drop_capabilities = vec!["ALL".into()];
            capabilities.add_capabilities = vec![capability.into()];
            seen.push(bed.output_of(&config).await?);
        }
        ensure!(
            seen.iter().all(|text| text.trim_end().ends_with("0000000002000000")),
            "{seen:?}"
        );
        Ok(())
    });
}
