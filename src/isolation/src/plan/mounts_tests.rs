//! Rules of the mounts, without a kernel.

use serde_json::{Value, json};
use spec::Kind;
use sys::mount::{ATIME, NODEV, NOEXEC, NOSUID, RDONLY};
use sys::path::Links;

use super::mounts::What;
use super::tests::with;
use super::*;

fn mount(value: Value) -> Result<mounts::Mount, Error> {
    with("/mounts", json!([value])).map(|mut plan| plan.mounts.remove(0))
}

#[test]
fn options_become_attributes() {
    let one = mount(json!({"destination": "/a/../b/", "type": "tmpfs", "options": ["nosuid", "ro", "rw", "noexec", "mode=755", "huge"]})).unwrap();
    assert_eq!(one.target, PathBuf::from("/b"));
    assert_eq!((one.attr.set, one.attr.clear), (NOSUID | NOEXEC, RDONLY));
    let What::Fs { fs, options, .. } = one.what else {
        panic!("not a filesystem")
    };
    assert_eq!(fs, "tmpfs");
    assert_eq!(
        options,
        [("mode".to_owned(), Some("755".to_owned())), ("huge".to_owned(), None)]
    );

    let one =
        mount(json!({"destination": "/b", "source": "/s", "options": ["rbind", "rro", "nodev", "rslave", "noatime"]}))
            .unwrap();
    assert_eq!(
        one.what,
        What::Bind {
            source: "/s".into(),
            recursive: true
        }
    );
    assert_eq!((one.attr.set & NODEV, one.attr.clear & ATIME), (NODEV, ATIME));
    assert_eq!(one.tree_attr.set, RDONLY);
    assert_eq!(one.propagation, (Propagation::Slave, true));
    let plain = mount(json!({"destination": "/b", "type": "bind", "source": "/s"})).unwrap();
    assert_eq!(
        plain.what,
        What::Bind {
            source: "/s".into(),
            recursive: false
        }
    );
    assert_eq!(plain.propagation, (Propagation::Private, true));
}

#[test]
fn mounts_that_make_no_sense_are_refused() {
    for bad in [
        json!({"destination": "relative", "type": "tmpfs"}),
        json!({"destination": "/", "type": "tmpfs"}),
        json!({"destination": "/..", "type": "tmpfs"}),
        json!({"destination": "/x"}),
        json!({"destination": "/x", "options": ["bind"]}),
        json!({"destination": "/proc/sys", "source": "/s", "options": ["bind"]}),
        json!({"destination": "/proc/self/../sys", "source": "/s", "options": ["bind"]}),
        json!({"destination": "/proc", "source": "/s", "options": ["bind"]}),
        json!({"destination": "/proc", "type": "tmpfs"}),
        json!({"destination": "/proc/self", "type": "proc"}),
        json!({"destination": "/x", "source": "/s", "options": ["bind", "idmap"]}),
        json!({"destination": "/x", "source": "/s", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}),
    ] {
        assert_eq!(mount(bad.clone()).unwrap_err().kind(), Kind::InvalidArgument, "{bad}");
    }
    for bad in [
        json!({"destination": "/x", "source": "/s", "options": ["bind", "size=1"]}),
        json!({"destination": "/x", "type": "mqueue", "options": ["tmpcopyup"]}),
        json!({"destination": "/x", "source": "/s", "options": ["bind", "tmpcopyup"]}),
        json!({"destination": "/x", "type": "tmpfs", "source": "/s", "options": ["bind", "tmpcopyup"]}),
        json!({"destination": "/dev", "type": "tmpfs", "options": ["tmpcopyup"]}),
        json!({"destination": "/x", "type": "tmpfs", "options": ["remount"]}),
        json!({"destination": "/x", "type": "cgroup", "options": ["memory"]}),
        json!({"destination": "/x", "type": "tmpfs", "options": ["idmap"],
               "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
               "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}),
    ] {
        assert_eq!(mount(bad.clone()).unwrap_err().kind(), Kind::Unimplemented, "{bad}");
    }
    mount(json!({"destination": "/proc/meminfo", "source": "/s", "options": ["bind"]})).unwrap();
    mount(json!({"destination": "/proc", "source": "/proc", "options": ["rbind"]})).unwrap();
}

#[test]
fn links_are_refused_where_the_kernels_filesystems_go() {
    let links = |destination: &str, typ: &str| {
        mount(json!({"destination": destination, "type": typ, "source": "/s"}))
            .unwrap()
            .links()
    };
    assert_eq!(links("/proc", "proc"), Links::Refuse);
    assert_eq!(links("/sys/fs/cgroup", "cgroup"), Links::Refuse);
    assert_eq!(links("/dev/shm", "bind"), Links::Refuse);
    assert_eq!(links("/data", "bind"), Links::Follow);
    // Not the same name.
    assert_eq!(links("/devices", "bind"), Links::Follow);
}
