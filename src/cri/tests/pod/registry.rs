//! One image behind a registry's HTTP interface, on a loopback port: a shell, a few programs
//! of the host and the libraries that they need.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Programs of the host that the image has in `/bin`.
const PROGRAMS: [&str; 14] = [
    "sh", "sleep", "cat", "true", "false", "ls", "id", "hostname", "mount", "touch", "rm", "stty", "stat", "readlink",
];

struct Blob {
    kind: &'static str,
    bytes: Vec<u8>,
}

/// The running registry; its thread ends with the test program.
pub(crate) struct Registry {
    /// `127.0.0.1:<port>`.
    pub(crate) authority: String,
}

fn sha256(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(out.stdout)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

fn libraries(program: &str) -> Vec<String> {
    let out = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.split_whitespace()
        .filter(|w| w.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

fn copy_into(root: &Path, source: &str, target: &str) {
    let target = root.join(target.trim_start_matches('/'));
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    std::fs::copy(source, target).unwrap();
}

fn layer(work: &Path) -> std::path::PathBuf {
    let root = work.join("image");
    for name in PROGRAMS {
        let found = [format!("/bin/{name}"), format!("/usr/bin/{name}")]
            .into_iter()
            .find(|p| Path::new(p).exists());
        let Some(source) = found else { continue };
        for library in libraries(&source) {
            copy_into(&root, &library, &library);
        }
        copy_into(&root, &source, &format!("/bin/{name}"));
    }
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::create_dir_all(root.join("tmp")).unwrap();
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd).unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\nextra:x:50:app\n").unwrap();
    std::fs::create_dir_all(root.join("vol")).unwrap();
    std::fs::write(root.join("vol/file"), "of the image\n").unwrap();
    let tar = work.join("layer.tar");
    let done = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status()
        .unwrap();
    assert!(done.success());
    tar
}

impl Registry {
    /// Serves `test/image:1`.
    pub(crate) fn start(work: &Path) -> Self {
        let tar = layer(work);
        let layer_digest = sha256(&tar);
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["FROM=image","PATH=/bin"],"Cmd":["/bin/sh","-c","echo from the image"],"Volumes":{{"/vol":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["sha256:{layer_digest}"]}}}}"#
        );
        let store = |name: &str, bytes: &[u8]| {
            let path = work.join(name);
            std::fs::write(&path, bytes).unwrap();
            sha256(&path)
        };
        let config_digest = store("config.json", config.as_bytes());
        let layer_bytes = std::fs::read(&tar).unwrap();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{config_digest}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{layer_digest}","size":{}}}]}}"#,
            config.len(),
            layer_bytes.len()
        );
        let manifest_digest = store("manifest.json", manifest.as_bytes());
        let mut paths = HashMap::new();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        for name in ["1".to_owned(), format!("sha256:{manifest_digest}")] {
            let blob = Blob {
                kind,
                bytes: manifest.clone().into_bytes(),
            };
            paths.insert(format!("/v2/test/image/manifests/{name}"), blob);
        }
        let octets = "application/octet-stream";
        paths.insert(
            format!("/v2/test/image/blobs/sha256:{config_digest}"),
            Blob {
                kind: octets,
                bytes: config.into(),
            },
        );
        paths.insert(
            format!("/v2/test/image/blobs/sha256:{layer_digest}"),
            Blob {
                kind: octets,
                bytes: layer_bytes,
            },
        );
        paths.insert(
            "/v2/".into(),
            Blob {
                kind: "application/json",
                bytes: b"{}".to_vec(),
            },
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let paths = Arc::new(paths);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let paths = Arc::clone(&paths);
                std::thread::spawn(move || drop(serve(&stream, &paths)));
            }
        });
        Self { authority }
    }

    /// The image's name.
    pub(crate) fn image(&self) -> String {
        format!("{}/test/image:1", self.authority)
    }
}

fn serve(stream: &TcpStream, paths: &HashMap<String, Blob>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut out = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (method, path) = (
            words.next().unwrap_or("").to_owned(),
            words.next().unwrap_or("").to_owned(),
        );
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header == "\r\n" {
                break;
            }
        }
        match paths.get(&path) {
            Some(blob) => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
                    blob.kind,
                    blob.bytes.len()
                );
                out.write_all(head.as_bytes())?;
                if method != "HEAD" {
                    out.write_all(&blob.bytes)?;
                }
            }
            None => out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
}
