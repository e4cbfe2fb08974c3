//! A CRI server of one pod and one container on a unix socket: it answers the calls that the
//! tests make, remembers what it was asked, and runs exec, attach and port-forward on this host
//! behind the real streaming server.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::cri::*;
use spec::Kind;
use stream::{
    AttachParams, Backend, BackendError, ExecParams, Options, PortForwardParams, Reader, Server, Streams, Wants, Writer,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener};
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

pub const POD: &str = "1111111111111111aaaa";
pub const CONTAINER: &str = "2222222222222222bbbb";
pub const IMAGE: &str = "sha256:333333333333333333cccc";

/// Runs commands on this host.
#[derive(Debug)]
struct Host;

fn failed(error: std::io::Error) -> BackendError {
    BackendError {
        kind: Kind::of_io(&error),
        message: error.to_string(),
    }
}

impl Backend for Host {
    async fn exec(&self, params: ExecParams, streams: Streams) -> Result<i32, BackendError> {
        if params.cmd[0] == "@terminal" {
            return terminal(streams).await;
        }
        let mut child = Command::new(&params.cmd[0])
            .args(&params.cmd[1..])
            .stdin(if streams.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (input, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let (Some(mut from), Some(mut to)) = (streams.stdin, input) {
                tokio::io::copy(&mut from, &mut to).await.ok();
            }
            std::future::pending::<()>().await;
        };
        let run = async {
            let copy = async |from: Option<_>, to: Option<Writer>| {
                if let (Some(mut from), Some(mut to)) = (from, to) {
                    copy_out(&mut from, &mut to).await;
                }
            };
            let out = copy(out.map(Output::Out), streams.stdout);
            let err = copy(err.map(Output::Err), streams.stderr);
            tokio::join!(child.wait(), out, err).0
        };
        tokio::select! {
            status = run => Ok(status.map_err(failed)?.code().unwrap_or(255)),
            () = feed => unreachable!(),
        }
    }

    async fn attach(&self, _: AttachParams, mut streams: Streams) -> Result<(), BackendError> {
        let mut out = streams.stdout.take().unwrap();
        out.write_all(b"attached\n").await.map_err(failed)
    }

    async fn port_forward(&self, _: &str, port: u16, mut from: Reader, mut to: Writer) -> Result<(), BackendError> {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.map_err(failed)?;
        let (mut read, mut write) = socket.split();
        tokio::select! {
            copied = tokio::io::copy(&mut read, &mut to) => copied.map(drop).map_err(failed),
            _ = async { tokio::io::copy(&mut from, &mut write).await.ok(); std::future::pending::<()>().await } => Ok(()),
        }
    }
}

/// Prints two sizes and then the first key.
async fn terminal(streams: Streams) -> Result<i32, BackendError> {
    let (Some(mut input), Some(mut out), mut sizes) = (streams.stdin, streams.stdout, streams.resize) else {
        return Ok(1);
    };
    for _ in 0..2 {
        let Some(size) = sizes.recv().await else { return Ok(2) };
        out.write_all(format!("{}x{}\r\n", size.width, size.height).as_bytes())
            .await
            .map_err(failed)?;
    }
    let key = input.read_u8().await.map_err(failed)?;
    out.write_all(format!("[{key}]\r\n").as_bytes()).await.map_err(failed)?;
    Ok(5)
}

enum Output {
    Out(tokio::process::ChildStdout),
    Err(tokio::process::ChildStderr),
}

async fn copy_out(from: &mut Output, to: &mut Writer) {
    match from {
        Output::Out(from) => tokio::io::copy(from, to).await.ok(),
        Output::Err(from) => tokio::io::copy(from, to).await.ok(),
    };
}

/// The server.
pub struct Node {
    pub dir: PathBuf,
    streaming: Arc<Server>,
    asked: Mutex<Vec<(String, Bytes)>>,
    container: Mutex<ContainerState>,
}

/// The running server, ended and cleaned up by drop.
pub struct Running {
    pub node: Arc<Node>,
    _stop: DropGuard,
}

impl Drop for Running {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.node.dir).unwrap();
    }
}

pub fn start(name: &str) -> Running {
    let dir = std::env::temp_dir().join(format!("bulkhead-ctl-{name}-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let options = Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        idle_timeout: Duration::from_secs(60),
        token_ttl: Duration::from_secs(60),
    };
    let streaming = Arc::new(Server::bind(options).unwrap());
    let cancel = CancellationToken::new();
    tokio::spawn(Arc::clone(&streaming).serve(Arc::new(Host), cancel.clone()));
    let node = Arc::new(Node {
        dir,
        streaming,
        asked: Mutex::default(),
        container: Mutex::new(ContainerState::ContainerRunning),
    });
    let listener = UnixListener::bind(node.socket()).unwrap();
    let served = Arc::clone(&node);
    let stop = cancel.clone();
    tokio::spawn(async move {
        let accept = async {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let node = Arc::clone(&served);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let node = Arc::clone(&node);
                        async move { Ok::<_, Infallible>(node.call(request).await) }
                    });
                    let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    http2.serve_connection(TokioIo::new(socket), service).await.ok();
                });
            }
        };
        stop.run_until_cancelled(accept).await;
    });
    Running {
        node,
        _stop: cancel.drop_guard(),
    }
}

type Answer = Result<Vec<u8>, (u32, String)>;

fn encoded(message: impl Message) -> Answer {
    Ok(message.encode_to_vec())
}

impl Node {
    pub fn socket(&self) -> PathBuf {
        self.dir.join("cri.sock")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("0.log")
    }

    pub fn exit(&self) {
        *self.container.lock().unwrap() = ContainerState::ContainerExited;
    }

    /// The last request of a call.
    pub fn asked<M: Message + Default>(&self, call: &str) -> M {
        let asked = self.asked.lock().unwrap();
        let (_, bytes) = asked
            .iter()
            .rev()
            .find(|(name, _)| name == call)
            .unwrap_or_else(|| panic!("{call} was not called"));
        M::decode(bytes.clone()).unwrap()
    }

    async fn call(
        &self,
        request: Request<Incoming>,
    ) -> Response<http_body_util::combinators::BoxBody<Bytes, Infallible>> {
        let call = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let message = body.slice(5..);
        self.asked.lock().unwrap().push((call.clone(), message.clone()));
        let mut trailers = HeaderMap::new();
        let mut data = BytesMut::new();
        match self.answer(&call, message) {
            Ok(message) => {
                data.put_u8(0);
                data.put_u32(u32::try_from(message.len()).unwrap());
                data.extend_from_slice(&message);
                trailers.insert("grpc-status", "0".parse().unwrap());
            }
            Err((code, message)) => {
                trailers.insert("grpc-status", code.to_string().parse().unwrap());
                trailers.insert("grpc-message", message.parse().unwrap());
            }
        }
        let body = Full::new(data.freeze()).with_trailers(async move { Some(Ok(trailers)) });
        Response::builder()
            .header("content-type", "application/grpc")
            .body(body.boxed())
            .unwrap()
    }

    fn answer(&self, call: &str, message: Bytes) -> Answer {
        let known = |id: &str| {
            if CONTAINER.starts_with(id) {
                Ok(())
            } else {
                Err((5, format!("container {id} not found")))
            }
        };
        match call {
            "Version" => encoded(VersionResponse {
                version: "0.1.0".into(),
                runtime_name: "fake".into(),
                runtime_version: "1.2.3".into(),
                runtime_api_version: "v1".into(),
            }),
            "Status" => encoded(StatusResponse {
                status: Some(RuntimeStatus {
                    conditions: vec![RuntimeCondition {
                        r#type: "RuntimeReady".into(),
                        status: true,
                        ..Default::default()
                    }],
                }),
                info: HashMap::from([("config".into(), "{\"root\":\"/x\"}".into())]),
                runtime_handlers: vec![RuntimeHandler {
                    name: "kata".into(),
                    features: Some(RuntimeHandlerFeatures {
                        user_namespaces: true,
                        ..Default::default()
                    }),
                }],
                features: Some(RuntimeFeatures {
                    supplemental_groups_policy: true,
                    ..Default::default()
                }),
            }),
            "RunPodSandbox" => encoded(RunPodSandboxResponse {
                pod_sandbox_id: POD.into(),
            }),
            "CreateContainer" => encoded(CreateContainerResponse {
                container_id: CONTAINER.into(),
            }),
            "StartContainer" => encoded(StartContainerResponse {}),
            "PullImage" => encoded(PullImageResponse {
                image_ref: IMAGE.into(),
            }),
            "ListContainers" => encoded(ListContainersResponse {
                containers: vec![self.container()],
            }),
            "ListPodSandbox" => encoded(ListPodSandboxResponse { items: vec![pod()] }),
            "ListImages" => encoded(ListImagesResponse { images: vec![image()] }),
            "ContainerStatus" => {
                known(&ContainerStatusRequest::decode(message).unwrap().container_id)?;
                encoded(ContainerStatusResponse {
                    status: Some(self.status()),
                    info: HashMap::from([("pid".into(), "7".into())]),
                })
            }
            "ExecSync" => {
                let request = ExecSyncRequest::decode(message).unwrap();
                known(&request.container_id)?;
                let output = std::process::Command::new(&request.cmd[0])
                    .args(&request.cmd[1..])
                    .output()
                    .unwrap();
                let exit_code = output.status.code().unwrap();
                encoded(ExecSyncResponse {
                    stdout: output.stdout.into(),
                    stderr: output.stderr.into(),
                    exit_code,
                })
            }
            "Exec" => {
                let request = ExecRequest::decode(message).unwrap();
                known(&request.container_id)?;
                let wants = Wants {
                    stdin: request.stdin,
                    stdout: request.stdout,
                    stderr: request.stderr,
                };
                let params = ExecParams {
                    container_id: request.container_id,
                    cmd: request.cmd,
                    tty: request.tty,
                    wants,
                };
                encoded(ExecResponse {
                    url: self.streaming.exec_url(params).unwrap(),
                })
            }
            "Attach" => {
                let request = AttachRequest::decode(message).unwrap();
                let wants = Wants {
                    stdin: request.stdin,
                    stdout: request.stdout,
                    stderr: request.stderr,
                };
                let params = AttachParams {
                    container_id: request.container_id,
                    tty: request.tty,
                    wants,
                };
                encoded(AttachResponse {
                    url: self.streaming.attach_url(params).unwrap(),
                })
            }
            "PortForward" => {
                let request = PortForwardRequest::decode(message).unwrap();
                let ports = request.port.iter().map(|port| u16::try_from(*port).unwrap()).collect();
                let params = PortForwardParams {
                    sandbox_id: request.pod_sandbox_id,
                    ports,
                };
                encoded(PortForwardResponse {
                    url: self.streaming.port_forward_url(params).unwrap(),
                })
            }
            "ListMetricDescriptors" => encoded(ListMetricDescriptorsResponse {
                descriptors: vec![MetricDescriptor {
                    name: "container_processes".into(),
                    help: "Processes".into(),
                    label_keys: vec!["id".into()],
                }],
            }),
            "ListPodSandboxMetrics" => encoded(ListPodSandboxMetricsResponse {
                pod_metrics: vec![PodSandboxMetrics {
                    pod_sandbox_id: POD.into(),
                    metrics: vec![Metric {
                        name: "container_processes".into(),
                        timestamp: 1,
                        metric_type: MetricType::Gauge.into(),
                        label_values: vec![POD.into()],
                        value: Some(UInt64Value { value: 3 }),
                    }],
                    container_metrics: vec![],
                }],
            }),
            "UpdateRuntimeConfig" => encoded(UpdateRuntimeConfigResponse {}),
            "UpdateContainerResources" => encoded(UpdateContainerResourcesResponse {}),
            other => Err((12, format!("{other} is not faked"))),
        }
    }

    fn container(&self) -> Container {
        Container {
            id: CONTAINER.into(),
            pod_sandbox_id: POD.into(),
            metadata: Some(ContainerMetadata {
                name: "web".into(),
                attempt: 1,
            }),
            image: Some(ImageSpec {
                image: IMAGE.into(),
                ..Default::default()
            }),
            state: (*self.container.lock().unwrap()).into(),
            created_at: 1_700_000_000_000_000_000,
            labels: HashMap::from([
                ("io.kubernetes.pod.name".into(), "site".into()),
                ("io.kubernetes.pod.namespace".into(), "default".into()),
            ]),
            ..Default::default()
        }
    }

    fn status(&self) -> ContainerStatus {
        let container = self.container();
        ContainerStatus {
            id: container.id,
            metadata: container.metadata,
            state: container.state,
            created_at: container.created_at,
            started_at: container.created_at,
            image: container.image,
            labels: container.labels,
            log_path: self.log().to_str().unwrap().to_owned(),
            ..Default::default()
        }
    }
}

fn pod() -> PodSandbox {
    PodSandbox {
        id: POD.into(),
        metadata: Some(PodSandboxMetadata {
            name: "site".into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        created_at: 1_700_000_000_000_000_000,
        ..Default::default()
    }
}

fn image() -> Image {
    Image {
        id: IMAGE.into(),
        repo_tags: vec!["docker.io/library/busybox:latest".into()],
        size: 1_234_567,
        ..Default::default()
    }
}

/// The program under test, talking to the server at `socket`.
pub fn ctl(socket: &Path, args: &[&str]) -> Command {
    let program = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/ctl");
    let mut command = Command::new(program);
    command
        .env_clear()
        .args([
            "--config",
            "/nonexistent/crictl.yaml",
            "-r",
            &format!("unix://{}", socket.display()),
        ])
        .args(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}
