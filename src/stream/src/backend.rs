//! What the streaming server asks of the CRI: run, join or connect, with protocol-free streams.

use std::future::Future;
use std::pin::Pin;

use spec::Kind;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// A byte stream towards the process.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;
/// A byte stream from the process.
pub type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The streams of one exec or attach session. What the client did not ask for is `None`.
#[expect(missing_debug_implementations, reason = "holds trait objects")]
pub struct Streams {
    /// Bytes from the client; its end is the end of stdin.
    pub stdin: Option<Reader>,
    /// Bytes to the client.
    pub stdout: Option<Writer>,
    /// Bytes to the client; never there with a terminal.
    pub stderr: Option<Writer>,
    /// Sizes of the client's terminal, the newest last.
    pub resize: mpsc::Receiver<Size>,
}

/// An exec that was asked for by the Exec RPC and is now to run.
#[derive(Debug, Clone)]
pub struct ExecParams {
    /// Full container id.
    pub container_id: String,
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// On a new terminal.
    pub tty: bool,
    /// Which streams are wanted.
    pub wants: Wants,
}

/// An attach that was asked for by the Attach RPC.
#[derive(Debug, Clone)]
pub struct AttachParams {
    /// Full container id.
    pub container_id: String,
    /// The container has a terminal.
    pub tty: bool,
    /// Which streams are wanted.
    pub wants: Wants,
}

/// A port-forward that was asked for by the PortForward RPC.
#[derive(Debug, Clone)]
pub struct PortForwardParams {
    /// Full pod sandbox id.
    pub sandbox_id: String,
    /// Ports named in the RPC (used by the legacy WebSocket protocol); may be empty.
    pub ports: Vec<u16>,
}

/// Which streams a client asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wants {
    /// The process's stdin.
    pub stdin: bool,
    /// The process's stdout.
    pub stdout: bool,
    /// The process's stderr.
    pub stderr: bool,
}

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    /// Its sort.
    pub kind: Kind,
    /// What says what, where and what to do.
    pub message: String,
}

/// The side of the streaming server that knows containers. Implemented by `cri`.
///
/// Rules for every call: a session is over when the future ends, so it must not end before all
/// output has been written; its writers are to be dropped or shut down by then (dropping one early
/// ends that stream early, which is how a half-close goes through). If the client leaves, readers
/// end, writers fail with `BrokenPipe`, and the future is dropped ten seconds later if it has not
/// ended by itself; it is dropped at once when the server stops or the session was idle too long.
pub trait Backend: Send + Sync + 'static {
    /// Runs a process in a container until it ends; its exit code.
    fn exec(&self, params: ExecParams, streams: Streams) -> impl Future<Output = Result<i32, BackendError>> + Send;

    /// Joins a container's own streams until it ends or the client leaves.
    fn attach(&self, params: AttachParams, streams: Streams) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Connects to a port in the pod's network namespace (127.0.0.1, then ::1) and copies
    /// both ways until both sides have ended.
    fn port_forward(
        &self,
        sandbox_id: &str,
        port: u16,
        from_client: Reader,
        to_client: Writer,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;
}
