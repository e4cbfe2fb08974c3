//! A host of one's own: the test starts itself again in new namespaces (`isolated`), and there
//! builds a host with a link to the outside, pods, and the plugins.
//!
//! ```text
//! outside (192.0.2.2, 2001:db8::2) ── out0 (192.0.2.1, 2001:db8::1) host ── cni0 ── pods
//! ```
//! Outside knows no route to the pods: only what is masqueraded comes back.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cni_invoke::cni_types::AddResult;
use cni_invoke::{Attachment, Cni, Options};
use serde_json::{Value, json};

const INSIDE: &str = "BULKHEAD_CNI_TEST_DIR";
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_bulkhead-cni");

/// Whose plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    Ours,
    Reference,
}

/// Runs `body` in namespaces of its own. `test` is the full name of the calling test.
pub(crate) fn isolated(test: &str, sets: &[Set], body: impl FnOnce(Host)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return body(Host::new(Path::new(&dir), sets));
    }
    if sets.contains(&Set::Reference) {
        build_reference();
    }
    let dir = tempfile::tempdir().unwrap();
    // Without "crate::", as the test harness names it.
    let name = test.split_once("::").unwrap().1;
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}:\n{text}\n{errors}");
    assert!(text.contains("1 passed"), "{name} is no test:\n{text}");
}

fn reference_dir() -> PathBuf {
    std::env::var_os("BULKHEAD_REFERENCE_CNI").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("reference-cni"),
        PathBuf::from,
    )
}

/// Builds the reference plugins from their Go module, once.
fn build_reference() {
    let dir = reference_dir();
    let lock = fs::File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("reference-cni.lock")).unwrap();
    rustix::fs::flock(lock.as_fd(), rustix::fs::FlockOperation::LockExclusive).unwrap();
    let wanted = ["main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"];
    for package in wanted {
        if dir.join(package.split_once('/').unwrap().1).exists() {
            continue;
        }
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/tools/cni");
        let status = Command::new("go")
            .args(["build", "-o"])
            .arg(format!("{}/", dir.display()))
            .arg(format!("github.com/containernetworking/plugins/plugins/{package}"))
            .current_dir(module)
            .status()
            .expect("the reference plugins need Go, or BULKHEAD_REFERENCE_CNI=DIR");
        assert!(status.success(), "building {package} failed");
    }
    assert!(
        Command::new("nft")
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success()),
        "the reference plugins need nft (package nftables)"
    );
}

/// Runs a program that must succeed; its output.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `ip` with words from one line.
pub(crate) fn ip(line: &str) -> String {
    run("ip", &line.split_whitespace().collect::<Vec<_>>())
}

/// A namespace with a name.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    pub(crate) path: PathBuf,
}

impl Space {
    /// Runs `body` in a thread of that namespace.
    pub(crate) fn run<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let path = self.path.clone();
        let thread = std::thread::spawn(move || {
            let file = fs::File::open(path).unwrap();
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).unwrap();
            body()
        });
        thread.join().unwrap()
    }

    pub(crate) fn ip(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || ip(&line))
    }
}

/// A pod: a namespace and its attachment.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) space: Space,
    pub(crate) attachment: Attachment,
}

impl Pod {
    /// Maps ports: (host port, container port, protocol, host address).
    pub(crate) fn mapping(mut self, list: &[(u16, u16, &str, &str)]) -> Self {
        let list: Vec<Value> = list
            .iter()
            .map(|(host, container, protocol, ip)| {
                json!({"hostPort": host, "containerPort": container, "protocol": protocol, "hostIP": ip})
            })
            .collect();
        self.attachment
            .capabilities
            .insert("portMappings".to_owned(), json!(list));
        self
    }
}

pub(crate) struct Host {
    pub(crate) dir: PathBuf,
    pub(crate) outside: Space,
    runtime: tokio::runtime::Runtime,
}

impl Host {
    fn new(dir: &Path, sets: &[Set]) -> Self {
        let dir = dir.to_owned();
        for name in ["net.d", "ns", "ours"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        run(PROGRAM, &["install", dir.join("ours").to_str().unwrap()]);
        if sets.contains(&Set::Reference) {
            std::os::unix::fs::symlink(reference_dir(), dir.join("reference")).unwrap();
        }
        // What libraries write by default lands in our own mount namespace.
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut host = Self {
            outside: Space {
                path: dir.join("ns/outside"),
            },
            dir,
            runtime,
        };
        host.outside = host.space("outside");
        ip("link add out0 type veth peer name out1");
        ip(&format!("link set out1 netns {}", host.outside.path.display()));
        for line in [
            "addr add 192.0.2.1/24 dev out0",
            "addr add 2001:db8::1/64 dev out0 nodad",
            "link set out0 up",
        ] {
            ip(line);
        }
        for line in [
            "addr add 192.0.2.2/24 dev out1",
            "addr add 2001:db8::2/64 dev out1 nodad",
            "link set out1 up",
        ] {
            host.outside.ip(line);
        }
        host
    }

    /// A new namespace, its `lo` up as the daemon leaves it.
    pub(crate) fn space(&self, name: &str) -> Space {
        let path = self.dir.join("ns").join(name);
        fs::write(&path, "").unwrap();
        run("unshare", &[&format!("--net={}", path.display()), "true"]);
        let space = Space { path };
        space.ip("link set lo up");
        space
    }

    pub(crate) fn pod(&self, id: &str) -> Pod {
        let space = self.space(id);
        let attachment = Attachment {
            container_id: id.to_owned(),
            netns: Some(space.path.clone()),
            ifname: "eth0".to_owned(),
            args: vec![("IgnoreUnknown".to_owned(), "1".to_owned())],
            ..Attachment::default()
        };
        Pod { space, attachment }
    }

    pub(crate) fn remove_space(&self, space: &Space) {
        run("umount", &[space.path.to_str().unwrap()]);
        fs::remove_file(&space.path).unwrap();
    }

    /// The usual bridge plugin, with `more` keys over it.
    pub(crate) fn bridge(&self, more: &Value) -> Value {
        let mut bridge = json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
            "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": self.dir.join("data"),
                "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        });
        for (key, value) in more.as_object().unwrap() {
            bridge[key] = value.clone();
        }
        bridge
    }

    pub(crate) fn portmap(&self) -> Value {
        json!({"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}})
    }

    pub(crate) fn configure(&self, version: &str, plugins: &[Value]) {
        let conf = json!({"cniVersion": version, "name": "net", "plugins": plugins});
        fs::write(self.dir.join("net.d/10.conflist"), conf.to_string()).unwrap();
    }

    /// The usual network: bridge and portmap.
    pub(crate) fn usual(&self) {
        self.configure("1.0.0", &[self.bridge(&json!({})), self.portmap()]);
    }

    pub(crate) fn cni(&self, set: Set) -> Arc<Cni> {
        let _guard = self.runtime.enter();
        Cni::new(Options {
            conf_dir: self.dir.join("net.d"),
            bin_dirs: vec![self.dir.join(if set == Set::Ours { "ours" } else { "reference" })],
            cache_dir: self.dir.join("cache"),
            timeout: Duration::from_secs(30),
            network_name: None,
        })
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn add(&self, set: Set, pod: &Pod) -> AddResult {
        self.wait(self.cni(set).add(&pod.attachment)).unwrap()
    }

    pub(crate) fn del(&self, set: Set, pod: &Pod) {
        self.wait(self.cni(set).del(&pod.attachment)).unwrap();
    }

    pub(crate) fn add_error(&self, pod: &Pod) -> cni_invoke::Error {
        self.wait(self.cni(Set::Ours).add(&pod.attachment)).unwrap_err()
    }

    /// Addresses that the store of `network` holds.
    pub(crate) fn held(&self, network: &str) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.dir.join("data").join(network)) else {
            return BTreeSet::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }

    pub(crate) fn ruleset(&self) -> String {
        run("nft", &["list", "ruleset"])
    }

    /// Nothing of any pod is left: interface, address, rule, record.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.held("net"), BTreeSet::new());
        // The kernel takes a namespace down in the background, its links with it.
        let gone = crate::traffic::eventually(|| (!ip("-o link").contains(": veth")).then_some(()));
        assert!(gone.is_some(), "{}", ip("-o link"));
        let rules = self.ruleset();
        for word in ["dnat to", "id: ", "saddr"] {
            assert!(!rules.contains(word), "{word}: {rules}");
        }
        let records = fs::read_dir(self.dir.join("cache/results")).map_or(0, Iterator::count);
        assert_eq!(records, 0);
    }
}
