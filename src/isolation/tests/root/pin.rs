//! Namespaces pinned as files. Each case in a child with a mount namespace of its own: `pin` moves its process.

use std::fs;
use std::path::{Path, PathBuf};

use isolation::{PinRequest, pin};
use sys::process::{Exit, fork, wait};

use crate::fixture::Bundle;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("bulkhead-pin-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn in_child(f: impl FnOnce() -> bool) {
    let child = fork(|| {
        let private = sys::mount::Attr {
            propagation: Some(sys::mount::Propagation::Private),
            ..sys::mount::Attr::default()
        };
        if sys::ns::unshare(libc::CLONE_NEWNS).is_err() || sys::mount::set_attr_at(c"/", true, private).is_err() {
            return 2;
        }
        u8::from(!f())
    })
    .unwrap();
    assert_eq!(wait(child).unwrap(), Exit::Code(0));
}

fn request(dir: &Path) -> PinRequest {
    PinRequest {
        user: None,
        network: Some(dir.join("net/ns")),
        ipc: Some(dir.join("ipc")),
        uts: Some(dir.join("uts")),
        hostname: Some("pinned".into()),
        sysctls: vec![("net.ipv4.ip_forward".into(), "1".into())],
        loopback_up: true,
    }
}

#[test]
fn a_container_joins_what_was_pinned() {
    let dir = Dir::new("join");
    let mut bundle = Bundle::shell(
        "hostname; cat /proc/sys/net/ipv4/ip_forward; cat /sys/class/net/lo/operstate; cat /sys/class/net/lo/flags",
    );
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    for (index, file) in [(2, "ipc"), (3, "uts"), (4, "net/ns")] {
        bundle.spec["linux"]["namespaces"][index]["path"] = serde_json::json!(dir.0.join(file));
    }
    in_child(|| {
        let pinner = fork(|| u8::from(pin(&request(&dir.0)).is_err())).unwrap();
        // The pinner has ended; its namespaces live on in the files.
        wait(pinner).unwrap() == Exit::Code(0)
            && bundle
                .run()
                .is_ok_and(|output| output.out == "pinned\n1\nunknown\n0x9\n")
    });
}

#[test]
fn a_failure_takes_everything_back() {
    let dir = Dir::new("undo");
    fs::write(dir.0.join("uts"), "").unwrap();
    in_child(|| {
        let error = pin(&request(&dir.0)).unwrap_err();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        error.kind() == spec::Kind::AlreadyExists && !mounts.contains(dir.0.to_str().unwrap())
    });
    assert!(dir.0.join("uts").exists(), "what was there before stays");
    assert!(!dir.0.join("ipc").exists() && !dir.0.join("net/ns").exists());
}

#[test]
fn what_has_no_namespace_to_go_to_is_refused() {
    let dir = Dir::new("refuse");
    let only_ipc = PinRequest {
        network: None,
        uts: None,
        hostname: None,
        sysctls: Vec::new(),
        loopback_up: false,
        ..request(&dir.0)
    };
    for bad in [
        PinRequest {
            hostname: Some("x".into()),
            ..only_ipc.clone()
        },
        PinRequest {
            loopback_up: true,
            ..only_ipc.clone()
        },
        PinRequest {
            sysctls: vec![("net.ipv4.ip_forward".into(), "1".into())],
            ..only_ipc.clone()
        },
        PinRequest {
            sysctls: vec![("kernel.core_pattern".into(), "x".into())],
            ..only_ipc.clone()
        },
        PinRequest {
            sysctls: vec![("kernel.shm_rmid_forced/../core_pattern".into(), "x".into())],
            ..only_ipc
        },
    ] {
        in_child(|| pin(&bad).is_err_and(|error| error.kind() == spec::Kind::InvalidArgument));
    }
    assert!(!dir.0.join("ipc").exists());
}
