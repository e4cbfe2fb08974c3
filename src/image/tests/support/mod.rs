//! What the tests of a pull share.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

pub mod image;
pub mod registry;
pub mod tar;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::image::{Options, Store};

/// A store in a directory of its own.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub options: Options,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bulkhead-image-").tempdir().unwrap();
        let mut options = Options::new(dir.path().join("root"));
        options.answer_timeout = Duration::from_secs(5);
        options.progress_timeout = Duration::from_secs(5);
        Self { dir, options }
    }

    pub fn open(&self) -> Arc<Store> {
        Store::open(self.options.clone()).unwrap()
    }

    pub fn root(&self) -> PathBuf {
        self.options.root.clone()
    }

    /// A `hosts.toml` for a registry.
    pub fn hosts(&mut self, host: &str, text: &str) {
        let dir = self.dir.path().join("certs.d");
        std::fs::create_dir_all(dir.join(host)).unwrap();
        std::fs::write(dir.join(host).join("hosts.toml"), text).unwrap();
        self.options.hosts_dir = Some(dir);
    }

    /// Names in `layers/`, finished and not.
    pub fn layer_names(&self) -> Vec<String> {
        names(&self.root().join("layers"))
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Reads a file below a mount that is attached nowhere.
pub fn read_at(root: &std::os::fd::OwnedFd, path: &str) -> Option<String> {
    use rustix::fs::{Mode, OFlags};
    use std::io::Read as _;
    let fd = rustix::fs::openat(root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = String::new();
    std::fs::File::from(fd).read_to_string(&mut text).unwrap();
    Some(text)
}

pub fn write_at(root: &std::os::fd::OwnedFd, path: &str, text: &str) {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(root, path, flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(fd, text.as_bytes()).unwrap();
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
