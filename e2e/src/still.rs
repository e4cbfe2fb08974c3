//! A node that stands still: the server, all that it started and all of its pods, frozen as one by the kernel's freezer.
//!
//! So what one server does can be measured beside another that is as full but does nothing. Only a node with
//! [`crate::Options::accounted`] can be frozen: its server is in the node's own cgroup of the freezer then, and so are
//! its children. The registry of a node runs on.
//!
//! A frozen process does not even end by SIGKILL (v1). Whatever becomes of this process, the node moves again: a shell
//! waits for the end of a pipe that only we hold.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::node::Node;
use crate::{leak, wait};

/// Goes on living in its node, frozen or not.
const REGISTRY: &str = "docker-registry";

/// The freezer of v1, where it is mounted.
pub(crate) fn hierarchy() -> Option<&'static Path> {
    Some(Path::new("/sys/fs/cgroup/freezer")).filter(|path| path.exists())
}

/// A node's control file, and what to write and wait for.
#[derive(Debug, Clone)]
struct Control {
    directory: PathBuf,
    is_v1: bool,
}

impl Control {
    fn of(node: &Node) -> Self {
        let is_v1 = hierarchy().is_some();
        let base = hierarchy().unwrap_or(Path::new("/sys/fs/cgroup"));
        Self {
            directory: base.join(node.name()),
            is_v1,
        }
    }

    fn file(&self) -> PathBuf {
        self.directory
            .join(if self.is_v1 { "freezer.state" } else { "cgroup.freeze" })
    }

    fn words(&self) -> [&'static str; 2] {
        if self.is_v1 { ["FROZEN", "THAWED"] } else { ["1", "0"] }
    }

    /// Whether the last process stands, or moves, as the kernel sees it.
    fn is(&self, still: bool) -> Result<bool> {
        let read = |name: &str| {
            let path = self.directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        if self.is_v1 {
            return Ok(read("freezer.state")?.trim() == self.words()[usize::from(!still)]);
        }
        let line = format!("frozen {}", u8::from(still));
        Ok(read("cgroup.events")?.lines().any(|one| one == line))
    }

    fn set(&self, still: bool) -> Result<()> {
        let path = self.file();
        let write = || fs::write(&path, self.words()[usize::from(!still)]);
        let at = || format!("write {}", path.display());
        write().with_context(at)?;
        let done = wait::blocking("the node stands or moves", Duration::from_secs(20), || {
            if self.is(still)? {
                return Ok(Some(()));
            }
            // A v1 freezer tries once for each write (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
            write().with_context(at)?;
            Ok(None)
        });
        done.with_context(|| format!("awake, or asleep outside of the freezer:{}", awake(&self.directory)))
    }
}

/// The threads in a cgroup and below it that are not in the freezer, each with its name, its state and what it waits in.
fn awake(directory: &Path) -> String {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let mut told = String::new();
    for task in read(format!("{}/tasks", directory.display())).lines() {
        let (stat, at) = (read(format!("/proc/{task}/stat")), read(format!("/proc/{task}/wchan")));
        if !at.contains("refrigerator") {
            let name_and_state = stat.splitn(4, ' ').take(3).collect::<Vec<_>>().join(" ");
            told += &format!(" {name_and_state} {at};");
        }
    }
    for below in fs::read_dir(directory).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            told += &awake(&below.path());
        }
    }
    told
}

/// As long as this lives, the node stands still.
#[derive(Debug)]
pub struct Still {
    control: Control,
    watchdog: Child,
}

impl Still {
    /// Freezes a node.
    ///
    /// # Errors
    /// Where a process of it is not in its cgroup, or the kernel does not freeze them all in time.
    pub fn new(node: &Node) -> Result<Self> {
        ensure!(node.options().accounted, "only a node that is accounted can be frozen");
        all_inside(node)?;
        let control = Control::of(node);
        let [_, move_on] = control.words();
        let watchdog = Command::new("sh")
            .args(["-c", "read -r done; echo \"$1\" > \"$2\"", "sh", move_on])
            .arg(control.file())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of reach of the terminal's signals.
            .process_group(0)
            .spawn()
            .context("start the shell that thaws")?;
        let still = Self { control, watchdog };
        still.control.set(true)?;
        Ok(still)
    }

    /// Lets it move again, and waits until it does.
    ///
    /// # Errors
    /// Where the kernel does not thaw it.
    pub fn end(self) -> Result<()> {
        self.control.set(false)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        // The shell does it as well; one of them will do.
        fs::write(self.control.file(), self.control.words()[1]).ok();
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            pipe.write_all(b"\n").ok();
        }
        self.watchdog.wait().ok();
    }
}

/// A process outside would go on, and the measurement would not be what it says.
fn all_inside(node: &Node) -> Result<()> {
    let own = format!("/{}/", node.name());
    for process in leak::living(node.init()).iter().filter(|one| one.comm != REGISTRY) {
        let path = node.inside(Path::new(&format!("/proc/{}/cgroup", process.pid)));
        // It may be gone by now.
        let Ok(groups) = fs::read_to_string(path) else { continue };
        let is_freezer = |line: &&str| match line.split(':').nth(1) {
            Some(names) if hierarchy().is_some() => names.split(',').any(|name| name == "freezer"),
            names => names == Some(""),
        };
        let group = groups.lines().find(is_freezer).unwrap_or_default();
        ensure!(
            group.contains(&own),
            "process {} ({}) is not in the node's cgroup but in {group:?}",
            process.pid,
            process.command
        );
    }
    Ok(())
}
