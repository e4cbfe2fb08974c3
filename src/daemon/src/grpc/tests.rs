//! The socket with a service that echoes the path.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use tokio::task::JoinHandle;

use super::*;
use crate::connect::{Connection, connect};
use crate::socket;

/// Answers with its name in a header, after a while if the path says so.
#[derive(Clone)]
struct Echo(&'static str);

impl Service<http::Request<Incoming>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let name = self.0;
        Box::pin(async move {
            match request.uri().path().rsplit('/').next() {
                Some("Slow") => tokio::time::sleep(Duration::from_millis(300)).await,
                Some("Panic") => panic!("on purpose"),
                _ => {}
            }
            let body = match request.uri().path().rsplit('/').next() {
                Some("Late") => Body::new(answer_with("13")),
                Some("Well") => Body::new(answer_with("0")),
                _ => Body::empty(),
            };
            let mut answer = http::Response::builder().header("service", name).body(body).unwrap();
            if request.uri().path().ends_with("/Early") {
                answer.headers_mut().insert("grpc-status", "5".parse().unwrap());
            }
            Ok(answer)
        })
    }
}

/// A message, then trailers with this code.
fn answer_with(code: &'static str) -> impl http_body::Body<Data = bytes::Bytes, Error = tonic::Status> + Send {
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static(code),
    )]);
    http_body_util::Full::new(bytes::Bytes::from_static(b"message"))
        .map_err(|never: Infallible| match never {})
        .with_trailers(async move { Some(Ok(trailers)) })
}

struct Server {
    registry: prometheus_client::registry::Registry,
    dir: tempfile::TempDir,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (listener, _bound) = socket::listen(&dir.path().join("s")).unwrap();
        listener.set_nonblocking(true).unwrap();
        // The socket file goes with _bound; keep it for this test.
        std::mem::forget(_bound);
        let stop = CancellationToken::new();
        let listener = UnixListener::from_std(listener).unwrap();
        let (registry, calls) = crate::metrics::registry();
        let task = tokio::spawn(serve(listener, Echo("runtime"), Echo("image"), calls, stop.clone()));
        Self {
            registry,
            dir,
            stop,
            task,
        }
    }

    async fn connect(&self) -> Connection {
        connect(&self.dir.path().join("s")).await.unwrap()
    }
}

async fn ask(connection: &mut Connection, path: &str) -> Result<http::Response<Incoming>, hyper::Error> {
    let request = http::Request::builder().uri(path).body(Body::empty()).unwrap();
    std::future::poll_fn(|context| connection.poll_ready(context)).await?;
    connection.call(request).await
}

#[tokio::test]
async fn a_call_reaches_the_service_its_path_names() {
    let server = Server::start();
    let mut connection = server.connect().await;
    let answer = ask(&mut connection, "/runtime.v1.RuntimeService/Version")
        .await
        .unwrap();
    assert_eq!(answer.headers()["service"], "runtime");
    let answer = ask(&mut connection, "/runtime.v1.ImageService/PullImage")
        .await
        .unwrap();
    assert_eq!(answer.headers()["service"], "image");
    let answer = ask(&mut connection, "/runtime.v1alpha2.RuntimeService/Version")
        .await
        .unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12");
    assert!(answer.headers()["grpc-message"].to_str().unwrap().contains("v1alpha2"));
}

#[tokio::test]
async fn a_call_is_counted_with_the_code_it_ended_with() {
    let server = Server::start();
    let mut connection = server.connect().await;
    let mut call = async |name: &str, whole: bool| {
        let answer = ask(&mut connection, &format!("/runtime.v1.RuntimeService/{name}"))
            .await
            .unwrap();
        if whole {
            answer.into_body().collect().await.unwrap();
        }
    };
    for (name, whole) in [("Early", true), ("Late", true), ("Well", true), ("Version", true)] {
        call(name, whole).await;
    }
    let metrics = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &server.registry).unwrap();
        text
    };
    let wanted = [
        "calls_total{operation=\"Early\"} 1",
        "errors_total{operation=\"Early\",code=\"5\"} 1",
        "calls_total{operation=\"Late\"} 1",
        "errors_total{operation=\"Late\",code=\"13\"} 1",
        "calls_total{operation=\"Well\"} 1",
        "calls_total{operation=\"Version\"} 1",
    ];
    let until = Instant::now() + Duration::from_secs(5);
    while !wanted.iter().all(|line| metrics().contains(line)) {
        assert!(Instant::now() < until, "{}", metrics());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let text = metrics();
    for well in ["Well", "Version"] {
        assert!(!text.contains(&format!("errors_total{{operation=\"{well}\"")), "{text}");
    }
}

#[tokio::test]
async fn a_panic_ends_one_call_and_nothing_else() {
    let server = Server::start();
    let mut connection = server.connect().await;
    assert!(ask(&mut connection, "/runtime.v1.RuntimeService/Panic").await.is_err());
    ask(&mut connection, "/runtime.v1.RuntimeService/Version")
        .await
        .unwrap();
}

#[tokio::test]
async fn on_stop_a_call_in_flight_ends_and_no_new_one_begins() {
    let server = Server::start();
    let mut connection = server.connect().await;
    let mut other = connection.clone();
    let slow = tokio::spawn(async move { ask(&mut other, "/runtime.v1.RuntimeService/Slow").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop.cancel();
    assert_eq!(slow.await.unwrap().unwrap().headers()["service"], "runtime");
    server.task.await.unwrap();
    assert!(
        ask(&mut connection, "/runtime.v1.RuntimeService/Version")
            .await
            .is_err()
    );
    assert!(socket::connect(Path::new(&server.dir.path().join("s"))).is_err());
}

#[tokio::test]
async fn a_client_that_speaks_no_http_harms_nobody() {
    use tokio::io::AsyncWriteExt;
    let server = Server::start();
    for _ in 0..32 {
        let stream = socket::connect(&server.dir.path().join("s")).unwrap();
        stream.set_nonblocking(true).unwrap();
        UnixStream::from_std(stream)
            .unwrap()
            .write_all(&[0xff; 4096])
            .await
            .unwrap_or_default();
    }
    let mut connection = server.connect().await;
    ask(&mut connection, "/runtime.v1.RuntimeService/Version")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_that_resets_what_it_asks_harms_nobody() {
    let server = Server::start();
    let mut flood = server.connect().await;
    let begun = Instant::now();
    for _ in 0..2000 {
        // Dropped before the answer: the client sends RST_STREAM.
        let call = ask(&mut flood, "/runtime.v1.RuntimeService/Slow");
        if matches!(tokio::time::timeout(Duration::from_micros(50), call).await, Ok(Err(_))) {
            break;
        }
    }
    let mut connection = server.connect().await;
    ask(&mut connection, "/runtime.v1.RuntimeService/Version")
        .await
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn connections_that_are_forgotten_lock_nobody_out() {
    let server = Server::start();
    let version = "/runtime.v1.RuntimeService/Version";
    let mut busy = server.connect().await;
    let slow = tokio::spawn(async move { ask(&mut busy, "/runtime.v1.RuntimeService/Slow").await.map(drop) });
    let mut forgotten = Vec::new();
    // Some that never speak HTTP, and as many as there are places that did once.
    for _ in 0..10 {
        forgotten.push(socket::connect(&server.dir.path().join("s")).unwrap());
    }
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = server.connect().await;
        let asked = tokio::time::timeout(Duration::from_secs(10), ask(&mut connection, version));
        asked.await.expect("locked out").unwrap();
        idle.push(connection);
    }
    slow.await.unwrap().expect("a call under way was cut off");
}
