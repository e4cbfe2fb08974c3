//! A bundle with a busybox root filesystem and a spec to be changed, and what it takes to run it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use isolation::{CreateRequest, Created, Error, ExecRequest, Execed, Stdio, create, exec};
use serde_json::{Value, json};
use sys::process::{Exit, pidfd_signal, wait_pidfd};

static NEXT: AtomicU32 = AtomicU32::new(0);

const APPLETS: [&str; 22] = [
    "sh", "cat", "ls", "id", "true", "sleep", "stat", "mount", "touch", "hostname", "readlink", "grep", "tty", "env",
    "pwd", "mkdir", "rm", "kill", "stty", "mknod", "head", "ps",
];

/// A bundle; everything of it goes when it is dropped.
pub(crate) struct Bundle {
    pub(crate) dir: PathBuf,
    pub(crate) spec: Value,
    pub(crate) id: String,
}

/// Runs busybox on the host. Programs are written this way and not by this process: a creator that another test forks
/// meanwhile would hold them open for writing, and execve would say "text file busy".
fn outside(args: &[&str]) {
    let status = std::process::Command::new("/bin/busybox").args(args).status().unwrap();
    assert!(status.success(), "busybox {args:?}");
}

/// How a process ended and what it said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) exit: Exit,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The test's ends of three pipes.
pub(crate) struct Pipes {
    pub(crate) stdin: File,
    pub(crate) stdout: File,
    pub(crate) stderr: File,
}

pub(crate) fn pipes() -> (Stdio, Pipes) {
    let pair = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (stdin, to_stdin) = pair();
    let (from_stdout, stdout) = pair();
    let (from_stderr, stderr) = pair();
    let ours = Pipes {
        stdin: to_stdin.into(),
        stdout: from_stdout.into(),
        stderr: from_stderr.into(),
    };
    (Stdio::Pipes { stdin, stdout, stderr }, ours)
}

/// The mounts that all containers of these tests begin from.
pub(crate) fn seed() -> BorrowedFd<'static> {
    static SEED: OnceLock<OwnedFd> = OnceLock::new();
    SEED.get_or_init(|| isolation::seed().unwrap()).as_fd()
}

impl Bundle {
    /// One that runs `args`.
    pub(crate) fn new(args: &[&str]) -> Self {
        let busybox = Path::new("/bin/busybox");
        assert!(
            busybox.exists(),
            "these tests need /bin/busybox, statically linked: apt-get install busybox-static"
        );
        let id = format!(
            "bulkhead-iso-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(&id);
        let root = dir.join("rootfs");
        for sub in ["bin", "etc", "tmp", "proc", "sys", "dev", "data"] {
            fs::create_dir_all(root.join(sub)).unwrap();
        }
        fs::create_dir(dir.join("canary")).unwrap();
        fs::write(dir.join("canary/file"), b"canary").unwrap();
        outside(&["cp", "/bin/busybox", root.join("bin/busybox").to_str().unwrap()]);
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let spec = spec(args, &id);
        Self { dir, spec, id }
    }

    /// One that runs a shell script.
    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub(crate) fn canary(&self) -> PathBuf {
        self.dir.join("canary")
    }

    /// Writes an executable file of the image.
    pub(crate) fn program(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        let script = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        outside(&["sh", "-c", script, path.to_str().unwrap(), text]);
    }

    /// Nothing has been made in, taken from or written to the canary.
    pub(crate) fn assert_canary(&self) {
        let names: Vec<_> = fs::read_dir(self.canary())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["file"], "something was made in the canary");
        assert_eq!(fs::read(self.canary().join("file")).unwrap(), b"canary");
    }

    pub(crate) fn process(&mut self) -> &mut Value {
        &mut self.spec["process"]
    }

    pub(crate) fn add_mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Puts the container into a new user namespace, and gives it its root filesystem.
    pub(crate) fn map(&mut self, host: u32) {
        let map = json!([{"containerID": 0, "hostID": host, "size": 65536}]);
        self.spec["linux"]["uidMappings"] = map.clone();
        self.spec["linux"]["gidMappings"] = map;
        self.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        outside(&["chown", "-hR", &format!("{host}:{host}"), self.root().to_str().unwrap()]);
    }

    pub(crate) fn write(&self) {
        fs::write(self.dir.join("config.json"), serde_json::to_vec(&self.spec).unwrap()).unwrap();
    }

    pub(crate) fn cgroup(&self) -> String {
        format!("/{}/c", self.id)
    }

    pub(crate) fn create_with(&self, stdio: Stdio) -> Result<Created, Error> {
        self.write();
        create(CreateRequest {
            id: &self.id,
            bundle: &self.dir,
            rootfs: None,
            mounts: Vec::new(),
            seed: Some(seed()),
            driver: cgroup::DriverKind::Cgroupfs,
            stdio,
        })
    }

    pub(crate) fn create(&self) -> Result<(Created, Pipes), Error> {
        let (stdio, pipes) = pipes();
        Ok((self.create_with(stdio)?, pipes))
    }

    /// Created and started.
    pub(crate) fn start(&self) -> Result<(Created, Pipes), Error> {
        let (mut created, pipes) = self.create()?;
        match created.start() {
            Ok(_) => Ok((created, pipes)),
            Err(error) => {
                wait_pidfd(created.pidfd.as_fd()).unwrap();
                Err(error)
            }
        }
    }

    /// Run to its end.
    pub(crate) fn run(&self) -> Result<Output, Error> {
        let (created, pipes) = self.start()?;
        Ok(finish(created.pidfd, pipes))
    }

    /// Run to its end, which must be good; what it said.
    pub(crate) fn out(&self) -> String {
        let output = self.run().unwrap_or_else(|error| panic!("{:?}", error.chain()));
        assert_eq!(output.exit, Exit::Code(0), "{output:?}");
        output.out
    }

    /// Why it cannot be created or started, as one line.
    pub(crate) fn refused(&self) -> (spec::Kind, String) {
        match self.run() {
            Ok(output) => panic!("it ran: {output:?}"),
            Err(error) => (error.kind(), error.chain().join(": ")),
        }
    }

    pub(crate) fn exec(&self, init: &Created, process: &Value) -> Result<(Execed, Pipes), Error> {
        let (stdio, pipes) = pipes();
        Ok((self.exec_with(init, process, stdio)?, pipes))
    }

    pub(crate) fn exec_with(&self, init: &Created, process: &Value, stdio: Stdio) -> Result<Execed, Error> {
        let json = serde_json::to_vec(process).unwrap();
        let pending = exec(ExecRequest {
            init: init.pidfd.as_fd(),
            init_pid: init.pid,
            bundle: &self.dir,
            process_json: &json,
            stdio,
            cgroup_path: &init.cgroup_path,
            driver: cgroup::DriverKind::Cgroupfs,
            keeps_orphans: false,
        })?;
        let mut poll = [rustix::event::PollFd::new(&pending, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1), "exec hangs");
        pending.finish()
    }

    /// Exec'd to its end.
    pub(crate) fn exec_out(&self, init: &Created, process: &Value) -> Result<Output, Error> {
        let (execed, pipes) = self.exec(init, process)?;
        Ok(finish(execed.pidfd, pipes))
    }
}

/// Closes stdin, reads the rest, waits.
pub(crate) fn finish(pidfd: OwnedFd, pipes: Pipes) -> Output {
    let Pipes {
        stdin,
        mut stdout,
        mut stderr,
    } = pipes;
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).unwrap();
    stderr.read_to_string(&mut err).unwrap();
    Output {
        exit: wait_pidfd(pidfd.as_fd()).unwrap(),
        out,
        err,
    }
}

/// Kills and reaps.
pub(crate) fn kill(created: &Created) {
    pidfd_signal(created.pidfd.as_fd(), libc::SIGKILL).unwrap();
    wait_pidfd(created.pidfd.as_fd()).unwrap();
}

/// A `process` object that runs a shell script.
pub(crate) fn process(script: &str) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "noNewPrivileges": true,
    })
}

/// Capability sets with `names` in bounding, effective and permitted.
pub(crate) fn caps(names: &[&str]) -> Value {
    json!({"bounding": names, "effective": names, "permitted": names})
}

fn spec(args: &[&str], id: &str) -> Value {
    let mut process = process("");
    process["args"] = json!(args);
    process["capabilities"] = caps(&["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_DAC_OVERRIDE"]);
    let kernel = ["nosuid", "noexec", "nodev"];
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": process,
        "hostname": "fixture",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": kernel},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": kernel},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{id}/c"),
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/proc/scsi", "/sys/firmware", "/proc/none"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"],
        },
    })
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let host = cgroup::Host::detect().unwrap();
        if let Ok(group) = host.open(&format!("/{}", self.id)) {
            if failed {
                group.kill().ok();
            }
            let removed = group.remove();
            assert!(failed || removed.is_ok(), "{removed:?}");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let leaked: Vec<_> = mounts.lines().filter(|line| line.contains(&self.id)).collect();
        assert!(failed || leaked.is_empty(), "mounts left behind: {leaked:?}");
        let removed = fs::remove_dir_all(&self.dir);
        assert!(failed || removed.is_ok(), "{removed:?}");
    }
}

/// A filter of the process table of this host: the pids in the bundle's cgroup.
pub(crate) fn in_cgroup(bundle: &Bundle) -> Vec<i32> {
    let host = cgroup::Host::detect().unwrap();
    host.open(&bundle.cgroup())
        .map(|group| group.procs().unwrap())
        .unwrap_or_default()
}

/// Writes and leaves open.
pub(crate) fn say(to: &mut impl Write, text: &str) {
    to.write_all(text.as_bytes()).unwrap();
}
