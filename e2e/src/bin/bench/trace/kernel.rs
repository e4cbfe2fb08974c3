//! The kernel's own recorder: an instance of ftrace (Documentation/trace/ftrace.rst) for some tasks and
//! all that they start, removed again at the end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Records for each processor; the life of one pod takes 5 MB.
const BUFFER_KB: u32 = 32 * 1024;

const EVENTS: [&str; 9] = [
    "syscalls",
    "sched/sched_switch",
    "sched/sched_waking",
    "sched/sched_process_fork",
    "sched/sched_process_exec",
    "sched/sched_process_exit",
    "cgroup/cgroup_mkdir",
    "cgroup/cgroup_rmdir",
    "cgroup/cgroup_attach_task",
];

/// A recorder that runs.
#[derive(Debug)]
pub(super) struct Recorder {
    directory: PathBuf,
}

impl Recorder {
    /// Starts recording `tasks` and everything that they start.
    pub(super) fn start(tasks: &BTreeSet<u32>) -> Result<Self> {
        let root = Path::new(TRACEFS);
        if !root.join("instances").exists() {
            anyhow::bail!("{TRACEFS} is not there: mount -t tracefs none {TRACEFS}, on a kernel with ftrace");
        }
        let directory = root.join(format!("instances/bulkhead-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let recorder = Self { directory };
        recorder.set("tracing_on", "0")?;
        recorder.set("trace_clock", "mono")?;
        recorder.set("buffer_size_kb", &BUFFER_KB.to_string())?;
        recorder.set("options/event-fork", "1")?;
        let words: Vec<String> = tasks.iter().map(u32::to_string).collect();
        recorder.set("set_event_pid", &words.join(" "))?;
        // Where a task went to sleep, and so why.
        recorder.set("events/sched/sched_switch/trigger", "stacktrace if prev_state > 0")?;
        for event in EVENTS {
            recorder.set(&format!("events/{event}/enable"), "1")?;
        }
        recorder.set("tracing_on", "1")?;
        Ok(recorder)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, value).with_context(|| format!("write {value:?} to {}", path.display()))
    }

    /// Forgets what was recorded.
    pub(super) fn clear(&self) -> Result<()> {
        self.set("trace", "")
    }

    /// The records as text.
    pub(super) fn text(&self) -> Result<String> {
        self.set("tracing_on", "0")?;
        let path = self.directory.join("trace");
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        self.set("tracing_on", "1")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.set("tracing_on", "0").ok();
        // Events hold on to the instance until they are off.
        for event in EVENTS {
            self.set(&format!("events/{event}/enable"), "0").ok();
        }
        fs::remove_dir(&self.directory).ok();
    }
}
