//! One call of one plugin, or of several of ours as one process.
//!
//! A call has two halves: the program is started, and it is told its configuration. A plugin that does nothing before
//! it has read that can be started ahead, while the one before it is at work; ours are such. And where one of ours has given the
//! whole answer to ADD and closed its streams, its end is not waited for, only by the next verb on the attachment: what
//! it does then (telling neighbours of a new address) concerns nobody here.
//!
//! The plugin gets the six `CNI_` variables beside the daemon's own environment, the
//! configuration on stdin, and a process group of its own. When its time is up, or when the
//! future is dropped because the caller went away, SIGKILL goes to the whole group: what a
//! plugin started goes with it. Output is read to a limit, never trusted to end.
//!
//! A killed process still finishes the system call it is in, which may make a link or a rule.
//! So whoever has the attachment's turn (`turn`) keeps it until the plugin is gone: a DEL after a
//! cancelled ADD begins when nothing of the ADD can happen any more.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cni_types::PluginConf;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin, Command};

use crate::error::Error;
use crate::lent::{self, Lent, Sockets};
use crate::turn::Turn;

const STDOUT_MAX: u64 = 4 << 20;
const STDERR_MAX: u64 = 64 << 10;
/// How long a plugin's children may keep its output open after it ended.
const LINGER: Duration = Duration::from_millis(500);
const SHOWN: usize = 400;

/// One call.
#[derive(Debug)]
pub(crate) struct Invocation<'a> {
    /// What the process does: one plugin, or several of ours.
    pub(crate) plugins: &'a [PluginConf],
    pub(crate) network: &'a str,
    pub(crate) command: &'static str,
    pub(crate) container_id: &'a str,
    pub(crate) netns: &'a str,
    pub(crate) ifname: &'a str,
    pub(crate) args: &'a str,
    pub(crate) bin_dirs: &'a [PathBuf],
    pub(crate) timeout: Duration,
    pub(crate) turn: Turn,
    pub(crate) sockets: &'a Sockets,
}

/// Where `plugin` is installed.
pub(crate) fn find(plugin: &str, network: &str, dirs: &[PathBuf]) -> Result<PathBuf, Error> {
    // Checked when the configuration is read; checked again where the path is made.
    cni_types::name::plugin(plugin).map_err(|error| Error::Attachment(error.to_string()))?;
    let runs = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    dirs.iter()
        .map(|dir| dir.join(plugin))
        .find(|path| runs(path))
        .ok_or_else(|| Error::Missing {
            plugin: plugin.to_owned(),
            network: network.to_owned(),
            dirs: dirs.to_vec(),
        })
}

impl Invocation<'_> {
    /// The names, for whoever reads of it.
    fn names(&self) -> String {
        let names: Vec<&str> = self.plugins.iter().map(|plugin| plugin.plugin.as_str()).collect();
        names.join(", ")
    }
}

/// A plugin that runs. Dropped before its end, it is killed with its group, and reaped in the
/// background; until then the turn of its attachment is not given on.
struct Running {
    child: Option<Child>,
    group: Option<Pid>,
    turn: Turn,
}

impl Running {
    fn kill(&self) {
        if let Some(group) = self.group {
            // It may have ended a moment ago.
            kill_process_group(group, Signal::KILL).unwrap_or_default();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        self.kill();
        // Without a runtime there is nobody to wait for the turn either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let turn = self.turn.clone();
            runtime.spawn(async move {
                let reaped = child.wait().await;
                drop((reaped, turn));
            });
        }
    }
}

impl Running {
    /// Nobody waits for its end but whoever takes the turn next; it has so long for it.
    fn leave(&mut self, limit: Duration) {
        let Some(child) = self.child.take() else { return };
        let mut left = Self {
            child: Some(child),
            group: self.group,
            turn: self.turn.clone(),
        };
        tokio::spawn(async move {
            let Some(mut child) = left.child.take() else { return };
            if tokio::time::timeout(limit, child.wait()).await.is_err() {
                // Not in time: killed when it is dropped. One that was reaped is not, for its number may be another's.
                left.child = Some(child);
            }
            drop(left);
        });
    }
}

/// The file name of our plugins, to which their names are links.
const OURS: &str = "bulkhead-cni";

/// The program where it is ours. Ours waits for its configuration before it does anything, and does the work of several
/// plugins as one process. Of others that is not known: a script may act on its environment alone.
pub(crate) fn ours(plugin: &str, network: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    let path = find(plugin, network, dirs).ok()?.canonicalize().ok()?;
    path.file_name().is_some_and(|name| name == OURS).then_some(path)
}

/// A plugin that runs and has not been told its configuration.
pub(crate) struct Started<'a> {
    call: Invocation<'a>,
    path: PathBuf,
    running: Running,
    /// What ours is told by.
    line: Option<UnixStream>,
}

/// Starts the plugin; several are ours, and one process by their names.
pub(crate) fn start(call: Invocation<'_>) -> Result<Started<'_>, Error> {
    let Some(first) = call.plugins.first() else {
        return Err(Error::Attachment(format!("network {:?} has no plugins", call.network)));
    };
    let path = find(&first.plugin, call.network, call.bin_dirs)?;
    let bin_path = std::env::join_paths(call.bin_dirs)
        .map_err(|error| Error::Attachment(format!("plugin directories: {error}")))?;
    let mut command = Command::new(&path);
    command
        .env("CNI_COMMAND", call.command)
        .env("CNI_CONTAINERID", call.container_id)
        .env("CNI_NETNS", call.netns)
        .env("CNI_IFNAME", call.ifname)
        .env("CNI_ARGS", call.args)
        .env("CNI_PATH", bin_path)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let line = match ours(&first.plugin, call.network, call.bin_dirs) {
        None => {
            command.stdin(Stdio::piped());
            None
        }
        Some(path) => {
            let (line, theirs) = lent::stdin().map_err(Error::io("make a socket for CNI plugin", &path))?;
            command.stdin(theirs);
            Some(line)
        }
    };
    if call.plugins.len() > 1 {
        // By this name it takes the plugins from its arguments; another program would not know what to do, and say so.
        command
            .arg0(OURS)
            .args(call.plugins.iter().map(|plugin| plugin.plugin.as_str()));
    }
    let child = command.spawn().map_err(Error::io("execute CNI plugin", &path))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let running = Running {
        child: Some(child),
        group,
        turn: call.turn.clone(),
    };
    Ok(Started {
        call,
        path,
        running,
        line,
    })
}

impl Started<'_> {
    /// Tells it its configuration, does `told` when it knows all of it, and waits for its end; its standard output on
    /// success.
    pub(crate) async fn finish(self, stdin: &[u8], told: impl FnOnce()) -> Result<Vec<u8>, Error> {
        let Self {
            call,
            path,
            mut running,
            line,
        } = self;
        let mut output = Output::default();
        // The answer of ours to ADD counts before its end.
        let answers_first = line.is_some() && call.command == "ADD";
        let lent = line.as_ref().and_then(|_| call.sockets.take());
        let Some(child) = &mut running.child else {
            return Err(call.rubbish("it vanished", &[]));
        };
        let talked = async {
            let stdin = Stdin {
                conf: stdin,
                line,
                lent: lent.as_ref(),
            };
            match converse(child, stdin, told, &mut output).await? {
                None if answers_first && is_answer(&output.stdout) => Ok(None),
                None => child.wait().await.map(Some),
                ended => Ok(ended),
            }
        };
        let ended = tokio::time::timeout(call.timeout, talked).await;
        let Ok(ended) = ended else {
            running.kill();
            if let Some(child) = &mut running.child {
                child.wait().await.map_err(Error::io("wait for CNI plugin", &path))?;
            }
            running.child = None;
            return Err(Error::Timeout {
                plugin: call.names(),
                network: call.network.to_owned(),
                command: call.command,
                after: call.timeout,
            });
        };
        let Some(status) = ended.map_err(Error::io("talk to CNI plugin", &path))? else {
            running.leave(call.timeout);
            lent.into_iter().for_each(Lent::give_back);
            return Ok(output.stdout);
        };
        // Reaped: the number may soon be another's.
        running.child = None;
        if status.success() {
            lent.into_iter().for_each(Lent::give_back);
        }
        judge(&call, status, output)
    }
}

#[derive(Default)]
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

async fn drain(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, max: u64) -> std::io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    (&mut from).take(max).read_to_end(into).await?;
    // What is too much is read nevertheless, or the writer would hang.
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(())
}

/// Whether it is a whole result. What a plugin prints that fails is an error object, and one that is killed prints a part.
fn is_answer(stdout: &[u8]) -> bool {
    stdout.len() as u64 <= STDOUT_MAX
        && serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(stdout)
            .is_ok_and(|object| object.contains_key("cniVersion") && !object.contains_key("code"))
}

/// What a plugin is told, and by what.
struct Stdin<'a> {
    conf: &'a [u8],
    /// Its standard input, where it is ours.
    line: Option<UnixStream>,
    lent: Option<&'a Lent>,
}

impl Stdin<'_> {
    async fn tell(self, pipe: Option<ChildStdin>) -> std::io::Result<()> {
        match (self.line, pipe) {
            (Some(line), _) => lent::tell(line, self.conf, self.lent).await,
            // Closed: it reads to the end.
            (None, Some(mut pipe)) => pipe.write_all(self.conf).await,
            (None, None) => Ok(()),
        }
    }
}

/// Feeds and reads the plugin until it has closed its streams, or has ended; then how.
async fn converse(
    child: &mut Child,
    stdin: Stdin<'_>,
    told: impl FnOnce(),
    output: &mut Output,
) -> std::io::Result<Option<ExitStatus>> {
    let (to, from, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        match stdin.tell(to).await {
            Ok(()) => {
                told();
                Ok(())
            }
            // It may answer without reading.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(error),
        }
    };
    let Output { stdout, stderr } = output;
    let talk = async {
        tokio::try_join!(
            feed,
            drain(from, stdout, STDOUT_MAX + 1),
            drain(errors, stderr, STDERR_MAX)
        )?;
        Ok::<(), std::io::Error>(())
    };
    tokio::pin!(talk);
    tokio::select! {
        talked = &mut talk => {
            talked?;
            Ok(None)
        }
        status = child.wait() => {
            // A child of the plugin that keeps the pipe open does not keep us.
            if let Ok(talked) = tokio::time::timeout(LINGER, &mut talk).await {
                talked?;
            }
            status.map(Some)
        }
    }
}

fn judge(call: &Invocation<'_>, status: ExitStatus, output: Output) -> Result<Vec<u8>, Error> {
    let show = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim();
        let mut shown: String = text.chars().take(SHOWN).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        shown
    };
    let rubbish = |why: String| {
        let printed = if output.stdout.trim_ascii().is_empty() {
            &output.stderr
        } else {
            &output.stdout
        };
        Error::Rubbish {
            plugin: call.names(),
            network: call.network.to_owned(),
            command: call.command,
            why,
            printed: show(printed),
        }
    };
    if output.stdout.len() as u64 > STDOUT_MAX {
        return Err(rubbish(format!("more than {STDOUT_MAX} bytes of output")));
    }
    if status.success() {
        return Ok(output.stdout);
    }
    match cni_types::Error::parse(&output.stdout) {
        Some(source) => Err(Error::Plugin {
            plugin: call.names(),
            network: call.network.to_owned(),
            command: call.command,
            source: Box::new(source),
        }),
        None => Err(rubbish(format!("{status} without an error object"))),
    }
}

impl Invocation<'_> {
    /// The answer is no answer.
    pub(crate) fn rubbish(&self, why: impl std::fmt::Display, stdout: &[u8]) -> Error {
        Error::Rubbish {
            plugin: self.names(),
            network: self.network.to_owned(),
            command: self.command,
            why: why.to_string(),
            printed: String::from_utf8_lossy(stdout).trim().chars().take(SHOWN).collect(),
        }
    }
}
