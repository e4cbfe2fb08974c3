//! A registry that does as a test says: wants a bearer token, lies about a digest or a
//! length, stalls, cuts connections, answers HTML. It serves what a [`Storage`] holds.
//!
//! HTTP/1.1, GET and HEAD, one request a connection, one thread a connection.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::image::Storage;
use crate::netns;
use crate::node::Node;

/// What is wrong with the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Wants a bearer token for the repository, as registries on the internet do.
    Token,
    /// Every blob has one byte changed.
    BlobDigest,
    /// Blobs are longer than the manifest says.
    BlobTooLong,
    /// Blobs end early, with the connection.
    BlobCut,
    /// The first half of a blob, then nothing.
    BlobStalls,
    /// Accepts, reads, never answers.
    Silent,
    /// A web page with status 200 for everything.
    Html,
    /// Status 500 for everything.
    Broken,
    /// Status 429 for the first two requests, then all is well.
    BusyFirst,
    /// Blobs by redirect to another path.
    Redirect,
    /// Each blob takes two seconds longer, byte by byte.
    Slow,
}

/// The user and password that the token server wants.
pub const USER: (&str, &str) = ("bulkhead", "keel");

/// A running scripted registry.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    init: u32,
    acceptor: Option<JoinHandle<()>>,
}

struct Server {
    storage: Storage,
    fault: Fault,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

struct Asked {
    method: String,
    path: String,
    authorization: String,
}

impl Fake {
    /// Starts one on a port of its own in the node's network namespace.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub fn start(node: &Node, storage: Storage, fault: Fault) -> Result<Self> {
        let listener = netns::listen(node.init(), SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.local_addr()?;
        let (seen, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let server = Arc::new(Server {
            storage,
            fault,
            address,
            seen: Arc::clone(&seen),
            over: Arc::clone(&over),
        });
        let acceptor = std::thread::spawn(move || accept(&listener, &server));
        node.write_hosts(
            &address.to_string(),
            &format!("server = \"http://{address}\"\n[host.\"http://{address}\"]\n"),
        )?;
        Ok(Self {
            address,
            seen,
            over,
            init: node.init(),
            acceptor: Some(acceptor),
        })
    }

    /// `host:port`, the registry part of a reference.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far: `METHOD path`.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // One more connection wakes the acceptor; where that fails the namespace is gone, and the thread with its test.
        if netns::connect(self.init, self.address).is_ok()
            && let Some(acceptor) = self.acceptor.take()
        {
            acceptor.join().ok();
        }
    }
}

fn accept(listener: &TcpListener, server: &Arc<Server>) {
    for stream in listener.incoming() {
        if server.over.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(stream) = stream {
            let server = Arc::clone(server);
            // A client that hangs up in the middle is what some tests are about.
            std::thread::spawn(move || server.serve(stream).ok());
        }
    }
}

impl Server {
    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            anyhow::ensure!(reader.read_line(&mut head)? > 0, "the client closed");
        }
        let mut words = head.split_whitespace();
        let asked = Asked {
            method: words.next().unwrap_or_default().to_owned(),
            path: words.next().unwrap_or_default().to_owned(),
            authorization: header(&head, "authorization").unwrap_or_default(),
        };
        let count = {
            let mut seen = self.seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
            seen.push(format!("{} {}", asked.method, asked.path));
            seen.len()
        };
        let mut answer = Answer {
            stream,
            head_only: asked.method == "HEAD",
        };
        match self.fault {
            Fault::Silent => self.stall(),
            Fault::Html => answer.send(
                "200 OK",
                &[("Content-Type", "text/html")],
                b"<html><body>Log in to the hotel network</body></html>",
            ),
            Fault::Broken => answer.send(
                "500 Internal Server Error",
                &[],
                b"{\"errors\":[{\"code\":\"UNKNOWN\",\"message\":\"the disk is on fire\"}]}",
            ),
            Fault::BusyFirst if count <= 2 => answer.send("429 Too Many Requests", &[("Retry-After", "1")], b"{}"),
            _ => self.route(&asked, &mut answer),
        }
    }

    fn stall(&self) -> Result<()> {
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn route(&self, asked: &Asked, answer: &mut Answer) -> Result<()> {
        if let Some(query) = asked.path.strip_prefix("/token") {
            return self.token(query, asked, answer);
        }
        if self.fault == Fault::Token && asked.authorization != "Bearer let-me-in" {
            let realm = format!(
                "Bearer realm=\"http://{}/token\",service=\"e2e\",scope=\"repository:busybox:pull\"",
                self.address
            );
            let body = b"{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"authentication required\"}]}";
            return answer.send("401 Unauthorized", &[("Www-Authenticate", &realm)], body);
        }
        let path = asked.path.split('?').next().unwrap_or_default();
        if path == "/v2/" {
            return answer.send("200 OK", &[], b"{}");
        }
        if let Some((repository, reference)) = path
            .strip_prefix("/v2/")
            .and_then(|rest| rest.split_once("/manifests/"))
        {
            return self.manifest(repository, reference, answer);
        }
        if let Some((_, digest)) = path.strip_prefix("/v2/").and_then(|rest| rest.split_once("/blobs/")) {
            if self.fault == Fault::Redirect {
                return answer.send(
                    "307 Temporary Redirect",
                    &[("Location", &format!("/elsewhere/{digest}"))],
                    b"",
                );
            }
            return self.blob(digest, answer);
        }
        if let Some(digest) = path.strip_prefix("/elsewhere/") {
            // A token for the registry must not travel to where it redirects.
            anyhow::ensure!(asked.authorization.is_empty(), "credentials were sent along");
            return self.blob(digest, answer);
        }
        answer.send(
            "404 Not Found",
            &[],
            b"{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"no such repository\"}]}",
        )
    }

    fn token(&self, query: &str, asked: &Asked, answer: &mut Answer) -> Result<()> {
        // base64 of `bulkhead:keel`
        let basic = asked.authorization == "Basic YnVsa2hlYWQ6a2VlbA==";
        if !basic || !query.contains("service=e2e") || !query.contains("scope=repository") {
            return answer.send(
                "401 Unauthorized",
                &[],
                b"{\"details\":\"incorrect username or password\"}",
            );
        }
        let body = serde_json::to_vec(&json!({"token": "let-me-in", "expires_in": 300}))?;
        answer.send("200 OK", &[("Content-Type", "application/json")], &body)
    }

    fn manifest(&self, repository: &str, reference: &str, answer: &mut Answer) -> Result<()> {
        let digest = if reference.starts_with("sha256:") {
            Ok(reference.to_owned())
        } else {
            self.storage.tag(repository, reference)
        };
        let Ok(bytes) = digest.and_then(|digest| self.storage.blob(&digest)) else {
            return answer.send(
                "404 Not Found",
                &[],
                b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"manifest unknown\"}]}",
            );
        };
        let value: Value = serde_json::from_slice(&bytes)?;
        let media_type = value["mediaType"].as_str().context("no media type")?;
        let digest = crate::image::digest(&bytes);
        answer.send(
            "200 OK",
            &[("Content-Type", media_type), ("Docker-Content-Digest", &digest)],
            &bytes,
        )
    }

    fn blob(&self, digest: &str, answer: &mut Answer) -> Result<()> {
        let Ok(mut bytes) = self.storage.blob(digest) else {
            return answer.send("404 Not Found", &[], b"{\"errors\":[{\"code\":\"BLOB_UNKNOWN\"}]}");
        };
        let middle = bytes.len() / 2;
        match self.fault {
            Fault::BlobDigest => bytes[middle] ^= 1,
            Fault::BlobTooLong => bytes.extend_from_slice(&[0; 4096]),
            Fault::BlobCut => return answer.part(bytes.len(), &bytes[..middle]),
            Fault::BlobStalls => {
                answer.part(bytes.len(), &bytes[..middle])?;
                return self.stall();
            }
            Fault::Slow => {
                answer.part(bytes.len(), &[])?;
                for piece in bytes.chunks(bytes.len().div_ceil(20).max(1)) {
                    answer.stream.write_all(piece)?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                return Ok(());
            }
            _ => {}
        }
        answer.send("200 OK", &[("Content-Type", "application/octet-stream")], &bytes)
    }
}

struct Answer {
    stream: TcpStream,
    head_only: bool,
}

impl Answer {
    fn send(&mut self, status: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<()> {
        let mut head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes())?;
        if !self.head_only {
            self.stream.write_all(body)?;
        }
        Ok(())
    }

    /// A head that promises `length` bytes, and some of them.
    fn part(&mut self, length: usize, bytes: &[u8]) -> Result<()> {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(bytes)?;
        Ok(self.stream.flush()?)
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
}
