//! Against the distribution project's own server, where Debian's `docker-registry` is there.

#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    clippy::print_stderr,
    reason = "a test program: every function is a test or serves one"
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ::image::{Credentials, IdShift};
use support::image::{Image, Layer, Pack, noise, sha, small};
use support::tar::Tar;
use support::{Bench, eventually, read_at};

const PROGRAM: &str = "/usr/bin/docker-registry";

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    async fn start(dir: &std::path::Path, auth: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = dir.join(format!("config-{port}.yml"));
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
            dir.join("registry").display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, port };
        eventually("the registry answers", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
        server
    }

    /// One request, without any library of ours.
    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    fn push_blob(&self, repository: &str, bytes: &[u8]) {
        let (code, answer) = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "text/plain", b"");
        assert_eq!(code, 202, "{answer}");
        let location = answer
            .lines()
            .find_map(|l| l.strip_prefix("Location: "))
            .unwrap()
            .trim();
        let path = &location[location.find("/v2/").unwrap()..];
        let joint = if path.contains('?') { '&' } else { '?' };
        let target = format!("{path}{joint}digest={}", sha(bytes));
        let (code, answer) = self.request("PUT", &target, "application/octet-stream", bytes);
        assert_eq!(code, 201, "{answer}");
    }

    fn push(&self, repository: &str, tag: &str, image: &Image) {
        self.push_blob(repository, &image.config);
        for layer in &image.layers {
            self.push_blob(repository, &layer.blob);
        }
        let (code, answer) = self.request(
            "PUT",
            &format!("/v2/{repository}/manifests/{tag}"),
            image.media_type(),
            &image.manifest,
        );
        assert_eq!(code, 201, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_from_a_real_registry() {
    if !std::path::Path::new(PROGRAM).exists() {
        eprintln!("skipped: {PROGRAM} is not installed");
        return;
    }
    let bench = Bench::new();
    let server = Server::start(bench.dir.path(), "").await;
    let big = Layer::of(&Tar::new().file("big", &noise(20 << 20, 3)).finish(), Pack::Gzip);
    let docker = Image::new(vec![Layer::new(small("a", "docker"), Pack::Gzip), big], true);
    let oci = Image::new(
        vec![
            Layer::new(small("a", "oci"), Pack::Zstd),
            Layer::new(small("b", "plain"), Pack::Plain),
        ],
        false,
    );
    server.push("team/app", "docker", &docker);
    server.push("team/app", "oci", &oci);
    let store = bench.open();
    for (tag, image, text) in [("docker", &docker, "docker"), ("oci", &oci, "oci")] {
        for name in [
            format!("127.0.0.1:{}/team/app:{tag}", server.port),
            format!("localhost:{}/team/app@{}", server.port, image.digest()),
        ] {
            let pulled = store.pull(&name, None).await.unwrap();
            assert_eq!(pulled.id.with_algorithm(), image.id());
            let id = spec::ContainerId::random().unwrap();
            store.snapshot_create(&id, &pulled.id, IdShift::NONE).await.unwrap();
            assert_eq!(
                read_at(&store.snapshot_mount(&id, None, None).unwrap(), "etc/a").as_deref(),
                Some(text)
            );
        }
    }
    assert_eq!(store.list().len(), 2);
    let missing = store
        .pull(&format!("127.0.0.1:{}/team/app:none", server.port), None)
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), spec::Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_with_passwords() {
    if !std::path::Path::new(PROGRAM).exists() {
        eprintln!("skipped: {PROGRAM} is not installed");
        return;
    }
    let bench = Bench::new();
    let open = Server::start(bench.dir.path(), "").await;
    let image = Image::new(vec![Layer::new(small("a", "1"), Pack::Gzip)], true);
    open.push("x", "1", &image);
    drop(open);
    // user:pass
    let htpasswd = bench.dir.path().join("htpasswd");
    std::fs::write(
        &htpasswd,
        "user:$2y$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n",
    )
    .unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: r\n    path: {}\n", htpasswd.display());
    let server = Server::start(bench.dir.path(), &auth).await;
    let name = format!("127.0.0.1:{}/x:1", server.port);
    let store = bench.open();
    let wrong = Credentials {
        username: "user".into(),
        password: "wrong".into(),
        ..Credentials::default()
    };
    for bad in [None, Some(wrong)] {
        let error = tokio::time::timeout(Duration::from_secs(20), store.pull(&name, bad))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.kind(), spec::Kind::Unauthenticated, "{error}");
    }
    let right = Credentials {
        username: "user".into(),
        password: "pass".into(),
        ..Credentials::default()
    };
    store.pull(&name, Some(right)).await.unwrap();
}
