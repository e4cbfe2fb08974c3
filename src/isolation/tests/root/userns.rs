//! Containers in user namespaces: who they are inside and on the host, what they can reach, what they leave.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use isolation::{IdMap, PinRequest, PinUser, Stdio, pin};
use serde_json::json;
use sys::process::{Exit, fork, wait, wait_pidfd};

use crate::fixture::{Bundle, caps, finish, kill, process};

const HOST: u32 = 700_000;

fn mapped(script: &str) -> Bundle {
    let mut bundle = Bundle::shell(script);
    bundle.map(HOST);
    bundle
}

#[test]
fn root_inside_is_nobody_outside() {
    let bundle = mapped(
        "id -u; id -g; cat /proc/self/uid_map /proc/self/setgroups; stat -c %u /bin/sh; touch /tmp/f; stat -c %u:%g /tmp/f; \
         cat /proc/self/status | grep -E '^(CapEff|Groups)'",
    );
    let out = bundle.out();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(
        words[..9],
        ["0", "0", "0", "700000", "65536", "allow", "0", "0:0", "Groups:"],
        "{out}"
    );
    // CHOWN, DAC_OVERRIDE, KILL, MKNOD: as asked for, not all that the namespace would give.
    assert!(out.contains("CapEff:\t0000000008000023"), "{out}");
    let file = fs::metadata(bundle.root().join("tmp/f")).unwrap();
    assert_eq!((file.uid(), file.gid()), (HOST, HOST));
}

#[test]
fn maps_of_several_lines_arrive_as_they_were_asked_for() {
    let mut bundle = mapped("cat /proc/self/uid_map; cat /proc/self/gid_map");
    let map = |list: [(u32, u32, u32); 3]| {
        let one = |(inside, outside, size)| json!({"containerID": inside, "hostID": outside, "size": size});
        json!(list.map(one))
    };
    bundle.spec["linux"]["uidMappings"] = map([(0, HOST, 10), (10, 5, 1), (100, 900_000, 1000)]);
    bundle.spec["linux"]["gidMappings"] = map([(0, HOST, 7), (7, 60, 2), (4_000_000, 800_000, 1)]);
    let out = bundle.out();
    let numbers: Vec<u32> = out.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let wanted = [
        0, HOST, 10, 10, 5, 1, 100, 900_000, 1000, 0, HOST, 7, 7, 60, 2, 4_000_000, 800_000, 1,
    ];
    assert_eq!(numbers, wanted);
}

#[test]
fn the_process_on_the_host_is_the_mapped_user_with_its_groups() {
    let mut bundle = mapped("sleep 100");
    bundle.process()["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7]});
    let (created, pipes) = bundle.start().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", created.pid)).unwrap();
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("Uid:"), vec!["701000"; 4]);
    assert_eq!(line("Gid:"), vec!["701001"; 4]);
    assert_eq!(line("Groups:"), ["700007"]);
    kill(&created);
    drop(pipes);
}

#[test]
fn what_every_container_has_is_there_and_works() {
    let bundle = mapped(
        "echo x > /dev/null && head -c 3 /dev/zero | wc -c && ls -ln /dev/null /dev/urandom | grep -c ' 0 *0 ' && \
         ls -d /sys/class/net/lo && ls /proc/1/ns/user && test -L /dev/ptmx && mount | grep -cE ' /(proc|sys|dev|dev/pts|dev/mqueue) '; \
         ls /sys/fs/cgroup | head -1; cat /proc/keys; touch /proc/sys/kernel/hostname || echo readonly",
    );
    let output = bundle.run().unwrap();
    assert_eq!(output.exit, Exit::Code(0), "{output:?}");
    let lines: Vec<&str> = output.out.lines().collect();
    assert_eq!(lines[..2], ["3", "2"], "{output:?}");
    assert!(
        output.out.contains("/sys/class/net/lo\n/proc/1/ns/user\n5\n"),
        "{output:?}"
    );
    assert!(output.out.ends_with("readonly\n"), "{output:?}");
}

#[test]
fn the_hosts_files_and_nodes_stay_out_of_reach() {
    let mut bundle = mapped(
        "cat /canary/secret; echo y > /canary/file; chown 0 /canary/file; mknod /tmp/sda b 8 0; \
         head -c 1 /dev/loop99; stat -c %u /canary/file; stat -c %u /dev/loop99",
    );
    bundle.process()["capabilities"] = caps(&[
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_SYS_ADMIN",
    ]);
    fs::write(bundle.canary().join("secret"), "secret").unwrap();
    fs::set_permissions(bundle.canary().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    bundle.add_mount(json!({"destination": "/canary", "source": bundle.canary(), "options": ["rbind", "rw"]}));
    // A node that the host keeps for its root.
    bundle.spec["linux"]["devices"] =
        json!([{"path": "/dev/loop99", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600, "uid": 0, "gid": 0}]);
    bundle.spec["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
    let output = bundle.run().unwrap();
    assert_eq!(output.out, "65534\n65534\n", "{output:?}");
    for refused in [
        "/canary/secret': Permission denied",
        "/canary/file: Permission denied",
        "/dev/loop99: Permission denied",
    ] {
        assert!(output.err.contains(refused), "{refused} is not in {output:?}");
    }
    assert!(
        output.err.contains("mknod: /tmp/sda: Operation not permitted"),
        "{output:?}"
    );
    fs::remove_file(bundle.canary().join("secret")).unwrap();
    bundle.assert_canary();
}

#[test]
fn an_idmapped_volume_shows_its_own_owners_and_keeps_them() {
    let mut bundle =
        mapped("stat -c %u /own/root /own/app /other/root; touch /own/new; chown 5 /own/new; mkdir /own/dir");
    let volume = bundle.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    for (name, owner) in [("root", 0), ("app", 1000)] {
        fs::write(volume.join(name), name).unwrap();
        chown(volume.join(name), Some(owner), Some(owner)).unwrap();
    }
    let map = bundle.spec["linux"]["uidMappings"].clone();
    let mount = |target: &str, map: &serde_json::Value| json!({"destination": target, "source": volume, "options": ["rbind"], "uidMappings": map, "gidMappings": map});
    bundle.add_mount(mount("/own", &map));
    // Other maps than the container's: root of the volume is the container's user 9.
    bundle.add_mount(mount(
        "/other",
        &json!([{"containerID": 0, "hostID": HOST + 9, "size": 100}]),
    ));
    assert_eq!(bundle.out(), "0\n1000\n9\n");
    let owner = |name: &str| fs::metadata(volume.join(name)).unwrap().uid();
    assert_eq!(["root", "app", "new", "dir"].map(owner), [0, 1000, 5, 0]);
}

#[test]
fn a_filesystem_that_cannot_is_named() {
    let mut bundle = mapped("true");
    bundle.add_mount(json!({"destination": "/x", "source": "/proc/sys", "options": ["bind", "idmap"]}));
    let (kind, text) = bundle.refused();
    assert_eq!(kind, spec::Kind::FailedPrecondition);
    assert!(
        text.contains("mounts[/x]: source /proc/sys: procfs does not support idmapped mounts"),
        "{text}"
    );
}

#[test]
fn a_second_process_is_in_the_same_namespace() {
    let mut bundle = mapped("sleep 100");
    bundle.process()["user"] = json!({"uid": 5, "gid": 5});
    let (created, pipes) = bundle.start().unwrap();
    let mut second = process("id -u; readlink /proc/self/ns/user; echo out > /dev/stdout; touch /tmp/e");
    let output = bundle.exec_out(&created, &second).unwrap();
    let lines: Vec<&str> = output.out.lines().collect();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let init = namespace(&created.pid.to_string());
    assert_eq!(lines, ["0", init.to_str().unwrap(), "out"], "{output:?}");
    assert!(output.exit == Exit::Code(0) && init != namespace("self"));
    assert_eq!(fs::metadata(bundle.root().join("tmp/e")).unwrap().uid(), HOST);
    second["user"] = json!({"uid": 70_000, "gid": 0});
    let error = bundle.exec_out(&created, &second).unwrap_err();
    assert_eq!(error.kind(), spec::Kind::InvalidArgument);
    second["user"] = json!({"uid": 9, "gid": 9});
    second["terminal"] = json!(true);
    second["args"] = json!(["tty"]);
    let mut execed = bundle.exec_with(&created, &second, Stdio::Terminal).unwrap();
    let mut console = fs::File::from(execed.console.take().unwrap());
    let mut said = [0; 64];
    let count = std::io::Read::read(&mut console, &mut said).unwrap();
    assert_eq!(&said[..count], b"/dev/pts/0\r\n");
    assert_eq!(wait_pidfd(execed.pidfd.as_fd()).unwrap(), Exit::Code(0));
    kill(&created);
    drop(pipes);
}

#[test]
fn a_terminal_belongs_to_the_user() {
    let mut bundle = mapped("tty; stat -c %u $(tty) /dev/console; echo x > /dev/tty");
    bundle.process()["terminal"] = json!(true);
    bundle.process()["user"] = json!({"uid": 7, "gid": 7});
    let mut created = bundle.create_with(Stdio::Terminal).unwrap();
    let mut console = fs::File::from(created.console.take().unwrap());
    created.start().unwrap();
    let mut text = String::new();
    // EIO is the end of a terminal.
    std::io::Read::read_to_string(&mut console, &mut text).ok();
    let exit = wait_pidfd(created.pidfd.as_fd()).unwrap();
    assert_eq!((text.as_str(), exit), ("/dev/pts/0\r\n7\r\n7\r\nx\r\n", Exit::Code(0)));
}

#[test]
fn standard_streams_open_again_by_name() {
    let bundle = mapped("echo one > /dev/stdout; echo two > /proc/self/fd/2");
    let output = bundle.run().unwrap();
    assert_eq!((output.out.as_str(), output.err.as_str()), ("one\n", "two\n"));
}

#[test]
fn namespaces_pinned_for_a_pod_belong_to_its_user_namespace() {
    let mut bundle = mapped(
        "hostname; cat /proc/sys/net/ipv4/ping_group_range /proc/sys/kernel/shmmni; hostname changed && hostname; \
         echo 7 > /proc/sys/net/ipv4/ip_forward; cat /proc/sys/net/ipv4/ip_forward; cat /sys/class/net/lo/flags",
    );
    bundle.process()["capabilities"] = caps(&["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
    bundle.spec["linux"]["readonlyPaths"] = json!([]);
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    let dir = bundle.dir.join("ns");
    for (index, file) in [(2, "ipc"), (3, "uts"), (4, "net"), (6, "user")] {
        bundle.spec["linux"]["namespaces"][index]["path"] = json!(dir.join(file));
    }
    let map = || {
        vec![IdMap {
            inside: 0,
            outside: HOST,
            size: 65536,
        }]
    };
    let request = PinRequest {
        user: Some(PinUser {
            path: dir.join("user"),
            uids: map(),
            gids: map(),
        }),
        network: Some(dir.join("net")),
        ipc: Some(dir.join("ipc")),
        uts: Some(dir.join("uts")),
        hostname: Some("pinned".into()),
        sysctls: vec![
            ("net.ipv4.ping_group_range".into(), "0 2147483647".into()),
            ("kernel.shmmni".into(), "123".into()),
        ],
        loopback_up: true,
    };
    let child = fork(|| {
        let private = sys::mount::Attr {
            propagation: Some(sys::mount::Propagation::Private),
            ..sys::mount::Attr::default()
        };
        if sys::ns::unshare(libc::CLONE_NEWNS).is_err() || sys::mount::set_attr_at(c"/", true, private).is_err() {
            return 2;
        }
        let pinner = fork(|| match pin(&request) {
            Ok(_) => 0,
            Err(error) => {
                eprintln!("{:?}", error.chain());
                1
            }
        });
        if wait(pinner.unwrap()).unwrap() != Exit::Code(0) {
            return 3;
        }
        let output = bundle.run().unwrap();
        eprintln!("{output:?}");
        u8::from(output.out != "pinned\n0\t65535\n123\nchanged\n7\n0x9\n")
    })
    .unwrap();
    assert_eq!(wait(child).unwrap(), Exit::Code(0));
}

#[test]
fn many_leave_nothing() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let fds = || fs::read_dir("/proc/self/fd").unwrap().count();
    let children = || fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let before = mounts();
    let mut bundle = mapped("true");
    bundle.add_mount(json!({"destination": "/x", "source": bundle.canary(), "options": ["bind", "idmap"]}));
    bundle.out();
    let open = fds();
    for _ in 0..30 {
        let (created, pipes) = bundle.start().unwrap();
        assert_eq!(finish(created.pidfd, pipes).exit, Exit::Code(0));
    }
    assert!(fds() <= open + 40, "descriptors: {open} before, {} after", fds());
    assert_eq!((mounts(), children()), (before, String::new()));
}
