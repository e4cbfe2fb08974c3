//! A registry that does what a test tells it: serves, lies, stalls, resets, redirects, and
//! remembers every request with its headers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::image::Content;

pub type Body = BoxBody<Bytes, std::io::Error>;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// What to do with a request instead of serving it.
pub enum Act {
    Serve,
    Answer(StatusCode, Vec<(&'static str, String)>, Bytes),
    /// Nothing, for ever.
    Hang,
    /// The head of a good answer and `0` bytes of it, then a reset.
    Break(usize),
    /// The head of a good answer and that many bytes, then nothing.
    Stall(usize),
    /// The good answer, that many bytes at a time, with a pause between.
    Trickle(usize, Duration),
    /// Ignores Range.
    Whole,
    /// Claims another start in Content-Range.
    WrongRange,
}

impl Act {
    pub fn status(code: u16) -> Self {
        Self::Answer(StatusCode::from_u16(code).unwrap(), vec![], Bytes::new())
    }

    pub fn redirect(to: String) -> Self {
        Self::Answer(StatusCode::TEMPORARY_REDIRECT, vec![("location", to)], Bytes::new())
    }

    pub fn challenge(text: String) -> Self {
        Self::Answer(StatusCode::UNAUTHORIZED, vec![("www-authenticate", text)], Bytes::new())
    }
}

/// Sees a request and how many of the same path came before.
pub type Script = Box<dyn Fn(&Seen, usize) -> Act + Send + Sync>;

struct Shared {
    content: Mutex<Content>,
    seen: Mutex<Vec<Seen>>,
    script: Mutex<Arc<Script>>,
}

pub struct Registry {
    shared: Arc<Shared>,
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    pub async fn start(content: Content) -> Self {
        Self::start_with(content, None).await
    }

    pub async fn start_with(content: Content, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            content: Mutex::new(content),
            seen: Mutex::default(),
            script: Mutex::new(Arc::new(Box::new(|_, _| Act::Serve))),
        });
        let own = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let shared = Arc::clone(&own);
                let tls = tls.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => http.serve_connection(TokioIo::new(stream), service).await.ok(),
                        Some(tls) => match tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
                            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await.ok(),
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { shared, address, task }
    }

    pub fn script(&self, script: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(Box::new(script));
    }

    pub fn content(&self, change: impl FnOnce(&mut Content)) {
        change(&mut self.shared.content.lock().unwrap());
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.shared.seen.lock().unwrap().clear();
    }

    /// Requests whose path contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|s| s.path.contains(part)).count()
    }

    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: body.collect().await.map(|b| b.to_bytes()).unwrap_or_default(),
    };
    let before = {
        let mut all = shared.seen.lock().unwrap();
        let before = all.iter().filter(|s| s.path == seen.path).count();
        all.push(seen.clone());
        before
    };
    let script = Arc::clone(&shared.script.lock().unwrap());
    let act = script(&seen, before);
    let object = {
        let content = shared.content.lock().unwrap();
        seen.path
            .strip_prefix("/v2/")
            .and_then(|path| content.objects.get(path).cloned())
    };
    Ok(act_on(act, &seen, object).await)
}

async fn act_on(act: Act, seen: &Seen, object: Option<(String, Vec<u8>)>) -> Response<Body> {
    if let Act::Answer(status, headers, body) = act {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        return response.body(full(body)).unwrap();
    }
    if matches!(act, Act::Hang) {
        std::future::pending::<()>().await;
    }
    let Some((kind, bytes)) = object else {
        let error = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return Response::builder()
            .status(404)
            .header("content-type", "application/json")
            .body(full(error.into()))
            .unwrap();
    };
    let total = bytes.len();
    let start = seen
        .header("range")
        .filter(|_| !matches!(act, Act::Whole))
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let bytes = Bytes::from(bytes).slice(start.unwrap_or(0).min(total)..);
    let mut response = Response::builder()
        .header("content-type", kind)
        .header("content-length", bytes.len());
    if let Some(start) = start {
        let told = if matches!(act, Act::WrongRange) {
            start + 1
        } else {
            start
        };
        response = response.status(206).header(
            "content-range",
            format!("bytes {told}-{}/{total}", total.saturating_sub(1)),
        );
    }
    let body = match act {
        Act::Break(count) => pieces(vec![bytes.slice(..count.min(bytes.len()))], Some(true), Duration::ZERO),
        Act::Stall(count) => pieces(vec![bytes.slice(..count.min(bytes.len()))], Some(false), Duration::ZERO),
        Act::Trickle(size, pause) => pieces(bytes.chunks(size).map(|c| bytes.slice_ref(c)).collect(), None, pause),
        _ => full(bytes),
    };
    response.body(body).unwrap()
}

/// Pieces, then an end: proper, by reset, or never.
fn pieces(pieces: Vec<Bytes>, end: Option<bool>, pause: Duration) -> Body {
    let head = futures_util::stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(pause).await;
        Ok(Frame::data(piece))
    });
    let tail = futures_util::stream::iter(end).then(|reset| async move {
        if !reset {
            std::future::pending::<()>().await;
        }
        // Long enough for the piece before to be on its way.
        tokio::time::sleep(Duration::from_millis(30)).await;
        Err(std::io::Error::other("reset, as the script says"))
    });
    http_body_util::BodyExt::boxed(StreamBody::new(head.chain(tail)))
}
