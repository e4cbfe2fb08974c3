//! A second server in the namespaces of a node: two of them on one machine.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::cri::Cri;
use crate::node::Node;
use crate::service::Service;
use crate::wait;

/// A second server in a node's namespaces, with directories and a cgroup of its own.
#[derive(Debug)]
pub struct Companion {
    service: Service,
    socket: PathBuf,
}

impl Companion {
    /// A client of it.
    #[must_use]
    pub fn cri(&self) -> Cri {
        Cri::connect(&self.socket)
    }

    /// SIGTERM; it must end well.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn stop(mut self) -> Result<()> {
        let how = self.service.terminate(Duration::from_secs(20)).await?;
        if how != "exit code 0" {
            bail!("after SIGTERM the second server ended with {how}");
        }
        Ok(())
    }
}

impl Node {
    /// Starts a second server of ours beside the first, with a cgroup of its own.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn companion(&self) -> Result<Companion> {
        let base = self.dir().join("second");
        for name in ["root", "state"] {
            fs::create_dir_all(base.join(name))?;
        }
        let config = base.join("config.yaml");
        let driver = if crate::cgroups::by_systemd() {
            "systemd"
        } else {
            "cgroupfs"
        };
        fs::write(
            &config,
            format!("cgroup_root: {}-second\ncgroup_driver: {driver}\n", self.name()),
        )?;
        let socket = base.join("state/cri.sock");
        let mut command = self.enter(self.product("bulkhead")?);
        command
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .arg("--root")
            .arg(base.join("root"));
        command
            .arg("--state")
            .arg(base.join("state"))
            .arg("--listen")
            .arg(&socket);
        command
            .arg("--cni-conf-dir")
            .arg(self.conf_dir())
            .arg("--cni-bin-dir")
            .arg(self.bin_dir());
        command.arg("--hosts-dir").arg(self.hosts_dir());
        let service = Service::start(command, &base.join("log"))?;
        wait::blocking("the second server listens", Duration::from_secs(20), || {
            Ok(socket.exists().then_some(()))
        })?;
        Ok(Companion { service, socket })
    }
}
