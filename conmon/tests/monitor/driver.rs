//! The daemon's side, blocking, with a deadline on everything.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::frame::{self, Decoder};
use proto::monitor::{self as wire, event::What, frame::Body, reply, request::Verb};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::{Value, json};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

fn program() -> String {
    std::env::var("BULKHEAD_CONMON").unwrap_or_else(|_| env!("CARGO_BIN_EXE_bulkhead-conmon").to_owned())
}

/// A running spawner.
pub(crate) struct Spawner {
    control: Option<OwnedFd>,
    child: Child,
}

impl Spawner {
    pub(crate) fn start() -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        // A shell moves stdin to descriptor 3.
        let child = Command::new("/bin/sh")
            .args(["-c", r#"exec "$0" spawner 3<&0 </dev/null"#, &program()])
            .stdin(Stdio::from(theirs))
            .spawn()
            .unwrap();
        Self {
            control: Some(ours),
            child,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn order(&self, what: wire::spawn::What) -> Connection {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let order = wire::Spawn { what: Some(what) }.encode_to_vec();
        sys::cmsg::send(self.control.as_ref().unwrap().as_fd(), &order, &[theirs.as_fd()]).unwrap();
        drop(theirs);
        Connection::new(ours)
    }

    /// Anything, with or without a descriptor.
    pub(crate) fn send(&self, bytes: &[u8], with_fd: bool) {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let fds = [theirs.as_fd()];
        sys::cmsg::send(
            self.control.as_ref().unwrap().as_fd(),
            bytes,
            if with_fd { &fds } else { &[] },
        )
        .unwrap();
    }

    pub(crate) fn monitor(&self) -> Connection {
        let mut connection = self.order(wire::spawn::What::Monitor(wire::SpawnMonitor {}));
        connection.hello();
        connection
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.control = None;
        let deadline = Instant::now() + DEADLINE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the spawner outlives its control socket");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A connection to a monitor.
pub(crate) struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    fds: VecDeque<Vec<OwnedFd>>,
    events: VecDeque<What>,
    next_id: u64,
    pub(crate) monitor_pid: i32,
}

impl Connection {
    fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self {
            socket,
            decoder: Decoder::default(),
            fds: VecDeque::new(),
            events: VecDeque::new(),
            next_id: 1,
            monitor_pid: 0,
        }
    }

    /// Through the socket that the monitor listens on.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let mut connection = Self::new(UnixStream::connect(state_dir.join(spec::exit::SOCKET)).unwrap());
        connection.hello();
        connection
    }

    fn hello(&mut self) {
        match self
            .call(Verb::Hello(wire::Hello {
                version: wire::VERSION,
                pid: 0,
            }))
            .unwrap()
            .0
        {
            reply::Result::Hello(hello) => {
                assert_eq!(hello.version, wire::VERSION);
                self.monitor_pid = hello.pid;
            }
            other => panic!("{other:?}"),
        }
    }

    /// False at the end of the connection.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let (count, fds) = sys::cmsg::recv(self.socket.as_fd(), &mut buffer).expect("an answer in time");
        if !fds.is_empty() {
            self.fds.push_back(fds);
        }
        self.decoder.push(&buffer[..count]);
        count > 0
    }

    fn frame(&mut self) -> Option<Body> {
        loop {
            if let Some(frame) = self.decoder.take().unwrap() {
                return frame.body;
            }
            if !self.fill() {
                return None;
            }
        }
    }

    pub(crate) fn call(&mut self, verb: Verb) -> Result<(reply::Result, Vec<OwnedFd>), wire::Failure> {
        let id = self.next_id;
        self.next_id += 1;
        let takes_fds = matches!(verb, Verb::Exec(_) | Verb::Attach(_));
        let request = wire::Frame {
            body: Some(Body::Request(wire::Request { id, verb: Some(verb) })),
        };
        let bytes = frame::encode(&request).unwrap();
        assert_eq!(sys::cmsg::send(self.socket.as_fd(), &bytes, &[]).unwrap(), bytes.len());
        loop {
            match self.frame().expect("an answer before the end of the connection") {
                Body::Reply(reply) if reply.id == id => match reply.result.unwrap() {
                    reply::Result::Failure(failure) => return Err(failure),
                    result => {
                        let fds = if takes_fds {
                            self.fds.pop_front().unwrap()
                        } else {
                            Vec::new()
                        };
                        return Ok((result, fds));
                    }
                },
                Body::Event(event) => self.events.push_back(event.what.unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The answer to an order that is answered unasked.
    pub(crate) fn reply(&mut self) -> reply::Result {
        match self.frame().expect("an answer") {
            Body::Reply(reply) => reply.result.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The first event that `pick` likes.
    pub(crate) fn event<T>(&mut self, pick: impl Fn(&What) -> Option<T>) -> T {
        loop {
            if let Some((index, found)) = self
                .events
                .iter()
                .enumerate()
                .find_map(|(index, event)| Some((index, pick(event)?)))
            {
                self.events.remove(index);
                return found;
            }
            match self.frame().expect("an event before the end of the connection") {
                Body::Event(event) => self.events.push_back(event.what.unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn exited(&mut self) -> wire::Exited {
        self.event(|what| match what {
            What::Exited(exited) => Some(exited.clone()),
            _ => None,
        })
    }

    pub(crate) fn exec_exited(&mut self, id: u64) -> wire::ExecExited {
        self.event(|what| match what {
            What::ExecExited(exited) if exited.exec_id == id => Some(*exited),
            _ => None,
        })
    }

    pub(crate) fn start(&mut self) -> i64 {
        match self.call(Verb::Start(wire::Start {})).unwrap().0 {
            reply::Result::Started(started) => started.started_at,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn kill(&mut self, signal: i32, all: bool) {
        self.call(Verb::Kill(wire::Kill { signal, all })).unwrap();
    }

    pub(crate) fn state(&mut self) -> wire::State {
        match self.call(Verb::GetState(wire::GetState {})).unwrap().0 {
            reply::Result::State(state) => state,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end of the connection and of the monitor.
    pub(crate) fn end(mut self) {
        while self.frame().is_some() {}
        let path = format!("/proc/{}/stat", self.monitor_pid);
        // Our spawner reaps it.
        until("the monitor's end", || !Path::new(&path).exists());
    }
}

pub(crate) fn until(what: &str, mut test: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !test() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A bundle with busybox as its root, a state directory and a log.
pub(crate) struct Bundle {
    dir: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) config: Value,
    pub(crate) create: wire::Create,
}

impl Bundle {
    /// `script` is run by the container's shell.
    pub(crate) fn new(script: &str) -> Self {
        Self::with_args(&["/bin/sh", "-c", script])
    }

    pub(crate) fn with_args(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("bulkhead-mon-").tempdir().unwrap();
        let id = spec::ContainerId::random().unwrap().as_str().to_owned();
        let root = dir.path().join("rootfs");
        for name in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("apt-get install busybox-static");
        for name in [
            "sh", "cat", "sleep", "head", "tail", "seq", "yes", "true", "false", "dd", "tr", "setsid", "id", "stty",
            "echo", "env",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        std::fs::create_dir(dir.path().join("state")).unwrap();
        std::fs::create_dir(dir.path().join("logs")).unwrap();
        let text = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let create = wire::Create {
            container_id: id.clone(),
            bundle: dir.path().to_str().unwrap().to_owned(),
            state_dir: text("state"),
            log_path: text("logs/0.log"),
            cgroup_driver: "cgroupfs".to_owned(),
            ..wire::Create::default()
        };
        let config = json!({
            "ociVersion": "1.3.0",
            "root": {"path": "rootfs"},
            "hostname": "monitored",
            "process": process(args),
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            ],
            "linux": {
                "cgroupsPath": cgroup_path(&id),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            },
        });
        Self {
            dir,
            id,
            config,
            create,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn create(&self, connection: &mut Connection) -> Result<wire::Created, wire::Failure> {
        std::fs::write(self.path("config.json"), self.config.to_string()).unwrap();
        connection
            .call(Verb::Create(self.create.clone()))
            .map(|(result, _)| match result {
                reply::Result::Created(created) => created,
                other => panic!("{other:?}"),
            })
    }

    pub(crate) fn run(&self, spawner: &Spawner) -> Connection {
        let mut connection = spawner.monitor();
        self.create(&mut connection).unwrap();
        connection.start();
        connection
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.create.log_path).unwrap()
    }

    /// The log without its times, which are checked.
    pub(crate) fn records(&self) -> String {
        strip(&self.log())
    }

    pub(crate) fn record(&self) -> spec::ExitRecord {
        serde_json::from_slice(&std::fs::read(self.path("state/exit.json")).unwrap()).unwrap()
    }

    /// Nothing may be left: no cgroup, no socket.
    pub(crate) fn check_gone(&self) {
        let host = cgroup::Host::detect().unwrap();
        assert!(host.open(&cgroup_path(&self.id)).is_err(), "the cgroup is left");
        assert!(!self.path("state/monitor.sock").exists(), "the socket is left");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let host = cgroup::Host::detect().unwrap();
        let path = cgroup_path(&self.id);
        let parent = path.rsplit_once('/').unwrap().0;
        if let Ok(parent) = host.open(parent) {
            parent.kill().unwrap();
            parent.remove().unwrap();
        }
    }
}

fn cgroup_path(id: &str) -> String {
    format!("/bulkhead-mon-{}-{}/{id}", std::process::id(), &id[..8])
}

pub(crate) fn process(args: &[&str]) -> Value {
    json!({"args": args, "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "terminal": false, "noNewPrivileges": true})
}

/// Times off, in order, and of the right form.
pub(crate) fn strip(log: &str) -> String {
    let mut last = "";
    let mut out = String::new();
    for line in log.split_inclusive('\n') {
        let (time, rest) = line.split_at_checked(30).unwrap_or_else(|| panic!("{line:?}"));
        let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(form, "0000-00-00T00:00:00.000000000Z");
        assert!(time >= last, "{time} after {last}");
        last = time;
        out.push_str(rest.strip_prefix(' ').unwrap());
    }
    out
}
