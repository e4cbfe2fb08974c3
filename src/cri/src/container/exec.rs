//! Exec: the URL, and what happens when the client comes with it.
//!
//! The process runs beside the container's own, with the same identity, limits and
//! environment. Its stdio descriptors come from the monitor; bytes go between them and the
//! client's streams and touch nothing else. A client that goes away kills the process: the
//! session's future is dropped, and with it `Exec`.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use proto::cri;
use proto::monitor::{self as wire, reply, request::Verb};
use rustix::termios::Winsize;
use spec::Kind;
use spec::runtime::Process;
use stream::{ExecParams, Size, Streams, Wants};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::start::program_fault;
use super::{bundle, stop};
use crate::blocking;
use crate::error::Error;
use crate::fdio::AsyncFile;
use crate::monitor::Client;
use crate::monitor::client::unexpected;
use crate::runtime::Runtime;
use crate::store::container::Container;

/// How long the way to the exec'd process's execve may take.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long output may still come after the process has ended: a grandchild may hold the
/// pipe for ever (kubernetes #123931).
pub(crate) const DRAIN: Duration = Duration::from_millis(2000);

/// What to run.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) cmd: Vec<String>,
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
    pub(crate) size: Option<Size>,
    pub(crate) timeout: Duration,
}

/// A process that was exec'd; killed when this is dropped before its end was seen.
#[derive(Debug)]
pub(crate) struct Exec {
    id: u64,
    client: Client,
    end: Option<oneshot::Receiver<wire::ExecExited>>,
    /// `[stdin] stdout stderr`, or the pty master.
    pub(crate) fds: Vec<AsyncFile>,
}

impl Drop for Exec {
    fn drop(&mut self) {
        if self.end.is_some() {
            self.kill();
        }
    }
}

impl Exec {
    /// Kills the process.
    pub(crate) fn kill(&self) {
        self.client.post(Verb::KillExec(wire::KillExec {
            exec_id: self.id,
            signal: 9,
        }));
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> Result<wire::ExecExited, Error> {
        let Some(end) = &mut self.end else {
            return Err(Error::new(Kind::Internal, "the process's end was seen already"));
        };
        let seen = end.await;
        self.end = None;
        seen.map_err(|_| Error::new(Kind::Unavailable, "the container ended, and the process with it"))
    }
}

/// The container, if a process can be run in it.
pub(crate) fn target(rt: &Runtime, id: &str) -> Result<Arc<Container>, Error> {
    let container = rt.index.container(id)?;
    if !container.with_status(|s| s.is_running()) {
        return Err(Error::precondition(format!("container {} does not run", container.id)));
    }
    if stop::is_dying(&container) {
        return Err(Error::precondition(format!(
            "container {} is being killed",
            container.id
        )));
    }
    Ok(container)
}

fn check(cmd: &[String]) -> Result<(), Error> {
    match cmd.first() {
        None => Err(Error::invalid("no command specified")),
        Some(first) if first.is_empty() => Err(Error::invalid("no command specified: the program's name is empty")),
        Some(_) if cmd.iter().any(|a| a.contains('\0')) => Err(Error::invalid("the command contains a NUL byte")),
        Some(_) => Ok(()),
    }
}

fn console_size(size: Size) -> Option<spec::runtime::Box> {
    let builder = spec::runtime::BoxBuilder::default();
    builder
        .width(u64::from(size.width))
        .height(u64::from(size.height))
        .build()
        .ok()
}

/// The process of the container's specification. One that a former daemon made is read when it is first asked for: a
/// start beside hundreds of containers does not read their bundles.
async fn process_of(rt: &Runtime, container: &Container) -> Result<Arc<Process>, Error> {
    if let Some(process) = container.process() {
        return Ok(process);
    }
    let path = rt.paths.config_json(&container.id);
    let process = Arc::new(blocking(move || bundle::process_of(&path)).await?);
    container.set_process(Arc::clone(&process));
    Ok(process)
}

/// Runs a process in a container.
pub(crate) async fn run(rt: &Runtime, container: &Container, wish: &Wish) -> Result<Exec, Error> {
    check(&wish.cmd)?;
    let process = process_of(rt, container).await?;
    let mut process = (*process).clone();
    process.set_args(Some(wish.cmd.clone()));
    process.set_terminal(Some(wish.tty));
    // Set before execve: a program may ask for it at once, and would not notice a later one.
    process.set_console_size(wish.size.filter(|_| wish.tty).and_then(console_size));
    if wish.tty
        && let Some(env) = process.env_mut()
        && !env.iter().any(|e| e.starts_with("TERM="))
    {
        env.push("TERM=xterm".into());
    }
    let process_json = serde_json::to_vec(&process).map_err(|e| Error::at("encode", "the process", &e))?;
    let size = wish.size.unwrap_or(Size { width: 0, height: 0 });
    let verb = Verb::Exec(wire::Exec {
        process_json,
        stdin: wish.stdin,
        terminal: wish.tty,
        timeout_ms: u64::try_from(wish.timeout.as_millis()).unwrap_or(u64::MAX),
        columns: u32::from(size.width),
        rows: u32::from(size.height),
    });
    let client = container.monitor()?;
    let answer = client
        .call(verb, vec![], START_DEADLINE)
        .await
        .map_err(|e| program_fault(e).during("exec in", format!("container {}", container.id)))?;
    let (started, end) = match (answer.result, answer.exec_end) {
        (reply::Result::ExecStarted(started), Some(end)) => (started, end),
        (other, _) => return Err(unexpected("ExecStarted", &other)),
    };
    let mut exec = Exec {
        id: started.exec_id,
        client,
        end: Some(end),
        fds: vec![],
    };
    let wanted = if wish.tty { 1 } else { 2 + usize::from(wish.stdin) };
    if answer.fds.len() != wanted {
        let got = answer.fds.len();
        return Err(Error::new(
            Kind::Internal,
            format!("the monitor sent {got} descriptors instead of {wanted}"),
        ));
    }
    for fd in answer.fds {
        exec.fds
            .push(AsyncFile::new(fd).map_err(|e| Error::at("use", "the process's stdio", &e))?);
    }
    Ok(exec)
}

/// Answers Exec with a URL.
pub(crate) fn url(rt: &Runtime, request: cri::ExecRequest) -> Result<cri::ExecResponse, Error> {
    let container = target(rt, &request.container_id)?;
    check(&request.cmd)?;
    let params = ExecParams {
        container_id: container.id.to_string(),
        cmd: request.cmd,
        tty: request.tty,
        wants: Wants {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        },
    };
    let url = rt.stream.exec_url(params).map_err(|e| Error::new(e.kind, e.message))?;
    Ok(cri::ExecResponse { url })
}

/// Copies until the source ends or the sink's side has gone; errors of either end it.
pub(crate) async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let copied = tokio::io::copy(&mut from, &mut to).await;
    if let Err(error) = copied {
        tracing::debug!(%error, "a stream ended early");
    }
    // The peer may be gone already.
    drop(to.shutdown().await);
}

async fn resize(master: &AsyncFile, sizes: &mut mpsc::Receiver<Size>) {
    while let Some(size) = sizes.recv().await {
        let winsize = Winsize {
            ws_col: size.width,
            ws_row: size.height,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        if let Err(error) = rustix::termios::tcsetwinsize(master.get().as_fd(), winsize) {
            tracing::debug!(%error, "the terminal's size could not be set");
        }
    }
}

/// Runs an exec session to its end; the exit code comes back.
pub(crate) async fn session(rt: &Runtime, params: ExecParams, mut streams: Streams) -> Result<i32, Error> {
    let container = target(rt, &params.container_id)?;
    let wish = Wish {
        cmd: params.cmd,
        stdin: params.wants.stdin && streams.stdin.is_some(),
        tty: params.tty,
        // A size that has come already is set before the program sees its terminal.
        size: streams.resize.try_recv().ok(),
        timeout: Duration::ZERO,
    };
    let tty = wish.tty;
    let mut exec = run(rt, &container, &wish).await?;
    let end = if tty {
        terminal(&mut exec, streams).await?
    } else {
        pipes(&mut exec, streams, wish.stdin).await?
    };
    Ok(end.exit_code)
}

async fn terminal(exec: &mut Exec, mut streams: Streams) -> Result<wire::ExecExited, Error> {
    let clone = |file: &AsyncFile| file.try_clone().map_err(|e| Error::at("use", "the terminal", &e));
    let master = exec
        .fds
        .pop()
        .ok_or_else(|| Error::new(Kind::Internal, "no terminal"))?;
    let (reader, mut writer) = (clone(&master)?, clone(&master)?);
    let output = async {
        match streams.stdout.take() {
            Some(stdout) => copy(reader, stdout).await,
            None => copy(reader, tokio::io::sink()).await,
        }
    };
    // The end of the client's stdin must not hang up the terminal: nothing is closed.
    let input = async {
        if let Some(mut stdin) = streams.stdin.take() {
            drop(tokio::io::copy(&mut stdin, &mut writer).await);
        }
        std::future::pending::<()>().await;
    };
    let sizes = async {
        resize(&master, &mut streams.resize).await;
        std::future::pending::<()>().await;
    };
    finish(exec, output, async { tokio::join!(input, sizes).0 }).await
}

async fn pipes(exec: &mut Exec, mut streams: Streams, with_stdin: bool) -> Result<wire::ExecExited, Error> {
    let mut fds = std::mem::take(&mut exec.fds).into_iter();
    let missing = || Error::new(Kind::Internal, "a descriptor of the process is missing");
    let stdin = if with_stdin {
        Some(fds.next().ok_or_else(missing)?)
    } else {
        None
    };
    let (stdout, stderr) = (fds.next().ok_or_else(missing)?, fds.next().ok_or_else(missing)?);
    let (to_out, to_err) = (streams.stdout.take(), streams.stderr.take());
    let output = async {
        tokio::join!(sink(stdout, to_out), sink(stderr, to_err));
    };
    let input = async {
        if let (Some(from), Some(to)) = (streams.stdin.take(), stdin) {
            copy(from, to).await;
        }
        std::future::pending::<()>().await;
    };
    finish(exec, output, input).await
}

async fn sink(from: AsyncFile, to: Option<stream::Writer>) {
    match to {
        Some(to) => copy(from, to).await,
        None => copy(from, tokio::io::sink()).await,
    }
}

/// Copies until the process has ended and its output has drained, or does not any more.
async fn finish(
    exec: &mut Exec,
    output: impl Future<Output = ()>,
    input: impl Future<Output = ()>,
) -> Result<wire::ExecExited, Error> {
    tokio::pin!(output, input);
    let mut drained = false;
    let end = loop {
        tokio::select! {
            end = exec.ended() => break end?,
            () = &mut output, if !drained => drained = true,
            () = &mut input => {}
        }
    };
    if !drained && tokio::time::timeout(DRAIN, output).await.is_err() {
        tracing::debug!("output is still held open by a grandchild; not waiting for it");
    }
    Ok(end)
}
