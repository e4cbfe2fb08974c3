//! How each kind of server is configured and started. Nothing else in this crate knows
//! which one runs, but for tests of what only Bulkhead promises.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::node::{Node, Plugins};
use crate::{account, catalog, places};

/// A CRI server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// `bulkhead serve`.
    Bulkhead,
    /// containerd v2.4 with runc.
    Containerd,
}

impl Engine {
    /// By `BULKHEAD_E2E_ENGINE`; ours where that is not set.
    #[must_use]
    pub fn chosen() -> Self {
        match std::env::var("BULKHEAD_E2E_ENGINE").as_deref() {
            Ok("containerd") => Self::Containerd,
            _ => Self::Bulkhead,
        }
    }
}

/// The plugins that the suites use.
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// The name of the bridge on every node (each has a network namespace of its own).
pub const BRIDGE: &str = "e2e0";

/// The network that the suites use: a bridge, addresses from a file, port mappings.
#[must_use]
pub fn conflist(node: &Node) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "e2e",
        "plugins": [
            {"type": "bridge", "bridge": BRIDGE, "isGateway": true, "hairpinMode": true, "ipMasq": true,
             "ipam": {"type": "host-local", "dataDir": node.dir().join("ipam"), "ranges": [[{"subnet": "10.88.0.0/16"}]],
                      "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

/// Writes the configuration files and the plugin directory.
///
/// # Errors
/// Where a program is missing.
pub fn configure(node: &Node) -> Result<()> {
    let ours = node.options().engine == Engine::Bulkhead && node.options().plugins == Plugins::OfEngine;
    for plugin in PLUGINS {
        let target = if ours {
            node.product("bulkhead-cni")?
        } else {
            places::tool(plugin)?
        };
        symlink(target, node.bin_dir().join(plugin))?;
    }
    node.write_hosts(
        catalog::REGISTRY,
        &format!("server = \"http://{0}\"\n[host.\"http://{0}\"]\n", catalog::REGISTRY),
    )?;
    match node.options().engine {
        Engine::Bulkhead => {
            let text = format!("{}{}", crate::cgroups::config(node), node.options().config);
            fs::write(node.dir().join("config.yaml"), text)?;
        }
        Engine::Containerd => fs::write(node.dir().join("config.toml"), containerd_config(node)?)?,
    }
    Ok(())
}

/// The command that starts the server inside the node.
///
/// # Errors
/// Where the program is missing.
pub fn command(node: &Node) -> Result<Command> {
    let mut command = match node.options().engine {
        Engine::Bulkhead => {
            let program = node.product("bulkhead")?;
            let mut command = match node.options().open_files {
                Some(soft) => {
                    let mut command = node.enter("prlimit");
                    command.arg(format!("--nofile={soft}:")).arg(program);
                    command
                }
                None => start(node, &program)?,
            };
            command.arg("serve").arg("--config").arg(node.dir().join("config.yaml"));
            command
                .arg("--root")
                .arg(node.root_dir())
                .arg("--state")
                .arg(node.state_dir())
                .arg("--listen")
                .arg(node.socket());
            command
                .arg("--cni-conf-dir")
                .arg(node.conf_dir())
                .arg("--cni-bin-dir")
                .arg(node.bin_dir());
            command.arg("--hosts-dir").arg(node.hosts_dir());
            // Without, as the configuration says.
            if !node.options().quiet {
                command.args(["--log-level", "debug"]);
            }
            command
        }
        Engine::Containerd => {
            let mut command = start(node, &places::tool("containerd")?)?;
            command
                .arg("--config")
                .arg(node.dir().join("config.toml"))
                .args(["--log-level", "info"]);
            command
        }
    };
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", places::cache().join("bin").display()));
    // Nothing of the environment of a test run may change what the server does.
    for variable in [
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "BULKHEAD_FAILPOINT",
    ] {
        command.env_remove(variable);
    }
    command.envs(node.options().env.iter().map(|(key, value)| (key, value)));
    Ok(command)
}

fn start(node: &Node, program: &Path) -> Result<Command> {
    if node.options().accounted {
        return account::enter(node, program);
    }
    Ok(node.enter(program))
}

fn containerd_config(node: &Node) -> Result<String> {
    let runc = places::tool("runc")?;
    let quoted = |path: &Path| {
        path.to_str()
            .map(|path| format!("'{path}'"))
            .context("a path that is not UTF-8")
    };
    Ok(format!(
        "version = 3
root = {root}
state = {state}
disabled_plugins = ['io.containerd.internal.v1.opt', 'io.containerd.nri.v1.nri', 'io.containerd.snapshotter.v1.erofs', 'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing']
[grpc]
address = {socket}
[ttrpc]
address = {ttrpc}
[plugins.'io.containerd.cri.v1.images']
snapshotter = 'overlayfs'
max_concurrent_downloads = 10
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{registry}/pause:1'
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = {hosts}
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = {runc}
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [{bin}]
conf_dir = {conf}
[plugins.'io.containerd.grpc.v1.cri']
stream_server_address = '127.0.0.1'
stream_server_port = '0'
",
        root = quoted(&node.root_dir())?,
        state = quoted(&node.state_dir())?,
        socket = quoted(&node.socket())?,
        ttrpc = quoted(&node.state_dir().join("ttrpc.sock"))?,
        registry = catalog::REGISTRY,
        hosts = quoted(&node.hosts_dir())?,
        runc = quoted(&runc)?,
        bin = quoted(&node.bin_dir())?,
        conf = quoted(&node.conf_dir())?,
    ))
}
