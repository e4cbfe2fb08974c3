//! One server, alone in mount, network, pid, uts and ipc namespaces of its own.
//!
//! `unshare` starts the *holder* (first process of the pid namespace; a sleep that ignores
//! SIGCHLD, so that the kernel reaps orphans); everything else enters by `nsenter`. When
//! the holder ends, the kernel ends every process in the namespace, and mounts, interfaces
//! and firewall rules go with the others: the machine is not touched even where a test
//! dies half-way. What is left then are cgroups and files, and those a test names.
//!
//! The server's directories are under [`Node::dir`], which is the same path inside and
//! outside, so tests reach its socket by path. Its state is on a tmpfs, as `/run` is on a
//! real node; [`Node::inside`] leads there from outside.

mod paths;
mod reboot;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cri::Cri;
use crate::engine::{self, Engine};
use crate::leak::Baseline;
use crate::service::{Service, child_of};
use crate::{places, wait};

/// How a node is set up. The default is what most tests want.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which server.
    pub engine: Engine,
    /// Write the network configuration before the start.
    pub network: bool,
    /// Where the network plugins are from.
    pub plugins: Plugins,
    /// Environment of the server (fail points).
    pub env: Vec<(String, String)>,
    /// More YAML for the configuration file (ours only).
    pub config: String,
    /// Size of a small filesystem for the images, in MB, or none.
    pub small_disk: Option<u32>,
    /// Start docker-registry with the catalogue.
    pub registry: bool,
    /// Log as a node in production does.
    pub quiet: bool,
    /// The soft limit of open files that the server (ours only) is started with, if not this process's own.
    pub open_files: Option<u32>,
    /// Start the server in a cgroup of its own, for [`crate::account`] and [`crate::still`].
    pub accounted: bool,
    /// Directories that get a tmpfs of their own inside: programs write there by fixed names.
    pub private: &'static [&'static str],
    /// Where our programs are, if not where [`places::product`] looks (a build with fail points).
    pub programs: Option<PathBuf>,
}

/// Which CNI plugins a node gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugins {
    /// Those of the engine: `bulkhead-cni` for ours, the reference plugins for the peer.
    OfEngine,
    /// The reference plugins.
    Reference,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engine: Engine::chosen(),
            network: true,
            plugins: Plugins::OfEngine,
            env: Vec::new(),
            config: String::new(),
            open_files: None,
            accounted: false,
            small_disk: None,
            registry: true,
            quiet: false,
            private: &[],
            programs: None,
        }
    }
}

/// A server and its surroundings.
#[derive(Debug)]
pub struct Node {
    dir: tempfile::TempDir,
    options: Options,
    holder: Child,
    init: u32,
    name: String,
    daemon: Option<Service>,
    registry: Option<crate::registry::Registry>,
    baseline: Baseline,
}

const SETUP: &str = r#"
set -e
mount --make-rshared /
mount -t proc proc /proc
bus=
if [ "${BULKHEAD_E2E_CGROUP_DRIVER:-}" = systemd ]; then
    bus=$1/bus
    mkdir "$bus"
    mount --bind /run/dbus "$bus"
fi
mount -t tmpfs -o mode=755 tmpfs /run
[ -z "$bus" ] || { mkdir /run/dbus && mount --bind "$bus" /run/dbus; }
mount -t tmpfs -o mode=755 tmpfs "$1/state"
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
[ -z "$3" ] || mount -t tmpfs -o "size=${3}m" tmpfs "$1/root"
# A reboot gives another one. It is mounted only then: a user namespace may have no procfs of its own where something
# hides a part of the one that is there (mount_too_revealing() in the kernel).
cat /proc/sys/kernel/random/boot_id > "$1/boot_id"
ready=$2
shift 3
for directory; do
    # Another node may be removing it just now.
    until mkdir -p "$directory" && mount -t tmpfs -o mode=755 tmpfs "$directory"; do sleep 0.1; done
done
ip link set lo up
: > "$ready"
exec env --ignore-signal=CHLD sleep infinity
"#;

impl Node {
    /// Makes the surroundings and starts the server.
    ///
    /// # Errors
    /// Where something is missing; the message says what.
    pub async fn start(options: Options) -> Result<Self> {
        let mut node = Self::prepare(options)?;
        if node.options.registry {
            node.registry = Some(crate::registry::Registry::catalog(&node)?);
        }
        node.start_daemon().await?;
        Ok(node)
    }

    /// Makes the surroundings only.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn prepare(options: Options) -> Result<Self> {
        let dir = places::scratch()?;
        for name in ["root", "state", "logs", "conf", "hosts", "ipam", "bin"] {
            fs::create_dir_all(dir.path().join(name))?;
        }
        let ready = dir.path().join("ready");
        let disk = options.small_disk.map(|size| size.to_string()).unwrap_or_default();
        // systemd takes the numbers of processes as its own namespace counts them (StartTransientUnit's PIDs).
        let namespaces: &[&str] = if crate::cgroups::by_systemd() { &[] } else { &["--pid"] };
        let mut holder = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--net",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child",
            ])
            .args(namespaces)
            .args(["sh", "-c", SETUP, "sh"])
            .arg(dir.path())
            .arg(&ready)
            .arg(disk)
            .args(options.private)
            .stdin(Stdio::null())
            .spawn()
            .context("start unshare (are you root?)")?;
        wait::blocking("the namespaces are set up", Duration::from_secs(20), || {
            if let Some(status) = holder.try_wait()? {
                bail!("the holder of the namespaces ended: {status}");
            }
            Ok(ready.exists().then_some(()))
        })?;
        let init = child_of(holder.id()).context("the holder has no child")?;
        let name = dir
            .path()
            .file_name()
            .map(|name| name.to_string_lossy().to_lowercase())
            .unwrap_or_default();
        let baseline = Baseline::take(init)?;
        let node = Self {
            dir,
            options,
            holder,
            init,
            name,
            daemon: None,
            registry: None,
            baseline,
        };
        engine::configure(&node)?;
        if node.options.network {
            node.write_network("10-e2e.conflist", &engine::conflist(&node))?;
        }
        Ok(node)
    }

    /// Starts the server on the directories as they are, and waits until it answers.
    ///
    /// # Errors
    /// Where it ends, or does not answer in 30 s; its log's end is in the message.
    pub async fn start_daemon(&mut self) -> Result<()> {
        let command = engine::command(self)?;
        let ready = match Service::start(command, &self.log_path()) {
            Ok(daemon) => {
                self.daemon = Some(daemon);
                self.wait_ready().await
            }
            // So fast that it was not even seen.
            Err(error) => Err(error),
        };
        ready.with_context(|| format!("the server's log ends with:\n{}", self.log_tail(30)))
    }

    /// Starts the server and does not wait for it.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn_daemon(&mut self) -> Result<()> {
        let command = engine::command(self)?;
        self.daemon = Some(Service::start(command, &self.log_path())?);
        Ok(())
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let socket = self.socket();
        let Some(daemon) = self.daemon.as_mut() else {
            bail!("no server was started")
        };
        wait::until("the server answers Version", Duration::from_secs(30), async || {
            if let Some(how) = daemon.ended()? {
                bail!("the server ended: {how}");
            }
            let cri = Cri::connect(&socket);
            Ok(cri.version().await.ok())
        })
        .await
        .map(drop)
    }

    /// A client of the running server.
    #[must_use]
    pub fn cri(&self) -> Cri {
        Cri::connect(&self.socket())
    }

    /// The server's process.
    ///
    /// # Errors
    /// Where none runs.
    pub fn daemon(&mut self) -> Result<&mut Service> {
        self.daemon.as_mut().context("no server runs")
    }

    /// The server's pid, where one runs.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Service::pid)
    }

    /// SIGKILL to the server.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.daemon()?.kill()?;
        self.daemon = None;
        Ok(())
    }

    /// SIGTERM to the server; it must end with code 0.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn stop_daemon(&mut self) -> Result<()> {
        let how = self.daemon()?.terminate(Duration::from_secs(20)).await?;
        self.daemon = None;
        if how != "exit code 0" {
            bail!("after SIGTERM the server ended with {how}, not with exit code 0");
        }
        Ok(())
    }

    /// SIGKILL, then a new server on the same directories.
    ///
    /// # Errors
    /// Where it does not come back.
    pub async fn restart(&mut self) -> Result<Cri> {
        self.kill_daemon()?;
        self.start_daemon().await?;
        Ok(self.cri())
    }

    /// A command that runs inside the node's namespaces.
    pub fn enter(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter", "-t"])
            .arg(self.init.to_string())
            .args(["-m", "-n", "-p", "-u", "-i", "--"])
            .arg(program);
        command
    }

    /// Runs a shell line inside and answers its output.
    ///
    /// # Errors
    /// Where it fails.
    pub fn sh(&self, line: &str) -> Result<String> {
        let output = self.enter("sh").args(["-c", line]).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!(
                "`{line}` failed: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a file of network configuration.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_network(&self, file: &str, text: &str) -> Result<()> {
        // As an administrator's tool does: whole or not at all.
        let path = self.conf_dir().join(file);
        let temporary = self.dir().join("conf-being-written");
        fs::write(&temporary, text)?;
        fs::rename(&temporary, &path).with_context(|| format!("write {}", path.display()))
    }

    /// Writes `hosts.toml` for a registry host.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_hosts(&self, host: &str, text: &str) -> Result<()> {
        let directory = self.hosts_dir().join(host);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("hosts.toml"), text)?;
        Ok(())
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Removes what is left by CRI, stops the server, and checks that nothing stayed.
    ///
    /// # Errors
    /// Where something stayed; the message lists it.
    pub async fn finish(mut self) -> Result<()> {
        if self.daemon.is_some() {
            let cri = self.cri();
            cri.remove_everything().await.context("remove what the test left")?;
            // What was put aside is deleted in the background, and all of it when the server has ended in order.
            self.stop_daemon().await?;
        }
        if let Some(registry) = self.registry.take() {
            registry.stop()?;
        }
        let leaks = crate::leak::check(&self, &self.baseline)?;
        if leaks.is_empty() {
            return Ok(());
        }
        let told = format!("left behind:\n  {}", leaks.join("\n  "));
        // What a peer leaves is for the table, and fails nothing of ours; it ends with the node's namespaces.
        if !self.ours() {
            eprintln!("the peer has {told}");
            return Ok(());
        }
        bail!(told)
    }

    /// The holder's pid, seen from outside: its `/proc` entry shows the namespaces.
    #[must_use]
    pub fn init(&self) -> u32 {
        self.init
    }

    /// Whether the server is ours; else the statements that only we make are not asked.
    #[must_use]
    pub fn ours(&self) -> bool {
        self.options.engine == Engine::Bulkhead
    }

    /// A program of ours.
    ///
    /// # Errors
    /// Where it is not built.
    pub fn product(&self, name: &str) -> Result<PathBuf> {
        match &self.options.programs {
            Some(directory) => Ok(directory.join(name)),
            None => places::product(name),
        }
    }

    /// How it was set up.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Replaces the environment of the next server that is started.
    pub fn set_env(&mut self, env: &[(&str, &str)]) {
        self.options.env = env
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
    }

    /// A name that no other node has; also the cgroup that the server is told to use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The order matters: services first, since their files are below `dir`.
        self.daemon = None;
        self.registry = None;
        self.holder.kill().ok();
        self.holder.wait().ok();
        crate::leak::remove_cgroups(self);
        for directory in self.options.private {
            // Made by the set-up where it was not there; one with files in it is the machine's own.
            fs::remove_dir(directory).ok();
        }
    }
}
