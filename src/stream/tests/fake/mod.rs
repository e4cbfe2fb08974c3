//! A backend of real processes and real sockets on the test's own host, the server around it,
//! and the client-go program that drives it.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use spec::Kind;
use stream::{
    AttachParams, Backend, BackendError, ExecParams, Options, PortForwardParams, Reader, Server, Streams, Wants, Writer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Runs what it is told on this host.
#[derive(Debug, Default)]
pub struct Fake {
    /// Sessions and forwards under way.
    pub live: AtomicUsize,
    /// Bytes that `@flood` has got rid of.
    pub flooded: AtomicU64,
    /// Bytes that `@swallow` has read before its client was gone.
    pub swallowed: AtomicU64,
}

struct Live<'a>(&'a AtomicUsize);

impl<'a> Live<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn failed(error: io::Error) -> BackendError {
    BackendError {
        kind: Kind::of_io(&error),
        message: error.to_string(),
    }
}

async fn copy(from: Option<impl tokio::io::AsyncRead + Unpin>, to: Option<Writer>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        tokio::io::copy(&mut from, &mut to).await.ok();
    }
}

impl Fake {
    /// Prints every size that it hears of, and ends after the one of width 999.
    async fn sizes(&self, mut streams: Streams) -> Result<i32, BackendError> {
        let mut out = streams.stdout.take().expect("stdout");
        while let Some(size) = streams.resize.recv().await {
            out.write_all(format!("{}x{}\n", size.width, size.height).as_bytes())
                .await
                .map_err(failed)?;
            if size.width == 999 {
                return Ok(0);
            }
        }
        Ok(1)
    }

    async fn flood(&self, mut streams: Streams) -> Result<i32, BackendError> {
        let mut out = streams.stdout.take().expect("stdout");
        loop {
            out.write_all(&[b'y'; 8192]).await.map_err(failed)?;
            self.flooded.fetch_add(8192, Ordering::SeqCst);
        }
    }

    async fn swallow(&self, mut streams: Streams) -> Result<i32, BackendError> {
        let mut input = streams.stdin.take().expect("stdin");
        let mut buffer = vec![0; 8192];
        loop {
            let n = input.read(&mut buffer).await.map_err(failed)?;
            if n == 0 {
                // Never ends by itself: its client has to.
                std::future::pending::<()>().await;
            }
            self.swallowed.fetch_add(n as u64, Ordering::SeqCst);
        }
    }
}

impl Backend for Fake {
    async fn exec(&self, params: ExecParams, streams: Streams) -> Result<i32, BackendError> {
        let _live = Live::new(&self.live);
        match params.cmd[0].as_str() {
            "@sizes" => return self.sizes(streams).await,
            "@flood" => return self.flood(streams).await,
            "@swallow" => return self.swallow(streams).await,
            _ => {}
        }
        let piped = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(&params.cmd[0])
            .args(&params.cmd[1..])
            .stdin(piped(streams.stdin.is_some()))
            .stdout(piped(streams.stdout.is_some()))
            .stderr(piped(streams.stderr.is_some()))
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let input = child.stdin.take();
        let feed = async {
            if let (Some(mut from), Some(mut to)) = (streams.stdin, input) {
                tokio::io::copy(&mut from, &mut to).await.ok();
            }
            std::future::pending::<()>().await;
        };
        let run = async {
            let (status, (), ()) = tokio::join!(child.wait(), copy(out, streams.stdout), copy(err, streams.stderr));
            status
        };
        let status = tokio::select! {
            status = run => status.map_err(failed)?,
            () = feed => unreachable!(),
        };
        status.code().ok_or_else(|| BackendError {
            kind: Kind::Internal,
            message: status.to_string(),
        })
    }

    async fn attach(&self, _params: AttachParams, streams: Streams) -> Result<(), BackendError> {
        let _live = Live::new(&self.live);
        let (Some(mut input), Some(mut out)) = (streams.stdin, streams.stdout) else {
            return Err(BackendError {
                kind: Kind::InvalidArgument,
                message: "both needed".to_owned(),
            });
        };
        out.write_all(b"attached\n").await.map_err(failed)?;
        tokio::io::copy(&mut input, &mut out).await.map_err(failed)?;
        Ok(())
    }

    async fn port_forward(&self, _pod: &str, port: u16, mut from: Reader, mut to: Writer) -> Result<(), BackendError> {
        let _live = Live::new(&self.live);
        let socket = TcpStream::connect(("127.0.0.1", port)).await.map_err(failed)?;
        let (mut read, mut write) = socket.into_split();
        let up = async {
            tokio::io::copy(&mut from, &mut write).await?;
            write.shutdown().await
        };
        let down = async {
            tokio::io::copy(&mut read, &mut to).await?;
            to.shutdown().await
        };
        tokio::try_join!(up, down).map(|_| ()).map_err(failed)
    }
}

/// A server with its backend, ended by drop.
pub struct Node {
    pub server: Arc<Server>,
    pub fake: Arc<Fake>,
    _stop: DropGuard,
}

pub fn node() -> Node {
    node_with(|_| {})
}

pub fn node_with(change: impl FnOnce(&mut Options)) -> Node {
    let mut options = Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        idle_timeout: Duration::from_secs(600),
        token_ttl: Duration::from_secs(60),
    };
    change(&mut options);
    let server = Arc::new(Server::bind(options).unwrap());
    let fake = Arc::new(Fake::default());
    let cancel = CancellationToken::new();
    tokio::spawn(Arc::clone(&server).serve(Arc::clone(&fake), cancel.clone()));
    Node {
        server,
        fake,
        _stop: cancel.drop_guard(),
    }
}

impl Node {
    pub fn exec(&self, cmd: &[&str], stdin: bool, tty: bool) -> String {
        let params = ExecParams {
            container_id: "c".to_owned(),
            cmd: cmd.iter().map(|s| (*s).to_owned()).collect(),
            tty,
            wants: Wants {
                stdin,
                stdout: true,
                stderr: !tty,
            },
        };
        self.server.exec_url(params).unwrap()
    }

    pub fn attach(&self) -> String {
        let wants = Wants {
            stdin: true,
            stdout: true,
            stderr: false,
        };
        self.server
            .attach_url(AttachParams {
                container_id: "c".to_owned(),
                tty: false,
                wants,
            })
            .unwrap()
    }

    pub fn forward(&self, ports: &[u16]) -> String {
        self.server
            .port_forward_url(PortForwardParams {
                sandbox_id: "p".to_owned(),
                ports: ports.to_vec(),
            })
            .unwrap()
    }

    /// Waits until no session is left.
    pub async fn quiet(&self, within: Duration) {
        let end = Instant::now() + within;
        while self.fake.live.load(Ordering::SeqCst) > 0 {
            assert!(
                Instant::now() < end,
                "{} sessions left",
                self.fake.live.load(Ordering::SeqCst)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The client-go program: `BULKHEAD_STREAMCLIENT`, or built here.
pub fn client() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("BULKHEAD_STREAMCLIENT") {
                return path.into();
            }
            // Each test program builds its own, so that two of them do not write the same file.
            let path = PathBuf::from(format!(
                "{}/streamclient-{}",
                env!("CARGO_TARGET_TMPDIR"),
                env!("CARGO_CRATE_NAME")
            ));
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/tools/streamclient");
            let built = std::process::Command::new("go")
                .current_dir(source)
                .args([
                    OsStr::new("build"),
                    OsStr::new("-buildvcs=false"),
                    OsStr::new("-o"),
                    path.as_os_str(),
                    OsStr::new("."),
                ])
                .status()
                .expect("go is needed to build hack/tools/streamclient");
            assert!(built.success(), "go build of hack/tools/streamclient failed");
            path
        })
        .clone()
}

pub fn start(args: &[&str]) -> Child {
    Command::new(client())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Runs the client with `input` as its stdin until it ends.
pub async fn run(args: &[&str], input: &[u8]) -> Output {
    let mut child = start(args);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = tokio::spawn(async move {
        // A client that ends early breaks this pipe.
        stdin.write_all(&input).await.ok();
    });
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output())
        .await
        .expect("client hangs")
        .unwrap();
    feeder.abort();
    output
}
