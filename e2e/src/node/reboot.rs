//! A reboot, as far as the server can tell: its own kernel cannot be restarted, but all that
//! a restart takes away is taken away.
//!
//! Gone: every process, `/run` with the namespaces pinned there, the state directory,
//! interfaces, firewall rules and cgroups. There: the root directory, the CNI plugins' files
//! under `/var/lib/cni`, logs. New: `/proc/sys/kernel/random/boot_id`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Node;
use crate::engine::BRIDGE;
use crate::registry::Registry;
use crate::{leak, wait};

impl Node {
    /// Takes away what a reboot takes, then starts the server.
    ///
    /// # Errors
    /// Where something of it fails.
    pub async fn reboot(&mut self) -> Result<()> {
        self.kill_daemon()?;
        let had_registry = self.registry.take().map(Registry::stop).transpose()?.is_some();
        wait::blocking("every process has ended", Duration::from_secs(10), || {
            let left = leak::living(self.init());
            let pids: Vec<String> = left.iter().map(|process| process.pid.to_string()).collect();
            // Some of them end by themselves meanwhile.
            self.sh(&format!("kill -9 {} 2>/dev/null || true", pids.join(" ")))?;
            Ok(left.is_empty().then_some(()))
        })?;
        let state = self.state_dir();
        self.sh(&format!(
            "umount -R -l /run && mount -t tmpfs -o mode=755 tmpfs /run &&
             umount -R -l '{state}' && mount -t tmpfs -o mode=755 tmpfs '{state}' &&
             nft flush ruleset && (ip link del {BRIDGE} 2>/dev/null || true)",
            state = state.display(),
        ))
        .context("take away what a reboot takes")?;
        leak::remove_cgroups(self);
        self.new_boot_id()?;
        if had_registry {
            self.registry = Some(Registry::catalog(self)?);
        }
        self.start_daemon().await
    }

    /// Gives the node another boot id: the file that its namespace shows as the kernel's.
    fn new_boot_id(&self) -> Result<()> {
        let path = self.dir().join("boot_id");
        let old = fs::read_to_string(&path)?;
        let (rest, last) = old.trim().split_at(old.trim().len() - 1);
        fs::write(&path, format!("{rest}{}\n", if last == "7" { '8' } else { '7' }))?;
        let there = leak::BOOT_ID;
        self.sh(&format!(
            "umount {there} 2>/dev/null; mount --bind '{}' {there}",
            path.display()
        ))
        .context("show another boot id")
        .map(drop)
    }
}
